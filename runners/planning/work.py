"""How much runs compute, counted from what is stated or here, without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from runners.plan import Run


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much a run computes; samples are images, or questions.

    Attributes:
        steps: optimizer steps; None where the number of training samples is not known.
        train_samples: distinct training samples.
        seen_samples: samples that pass through the model in training, repeats counted.
        judged_samples: samples that are evaluated.
        size: side of an image in pixels, or length of a text in tokens.
    """

    steps: int | None
    train_samples: int | None
    seen_samples: int | None
    judged_samples: int | None
    size: int


class WorkCounter(Protocol):
    """Counts the work of runs on one kind of data; looks each backbone and each data set up once."""

    def work(self, run: Run) -> Work:
        """Return how much a run computes; nothing is trained where nothing trains."""

    def head(self, run: Run) -> int:
        """Return the trained parameters of a run's head."""


def work_of(run: Run, *, samples: int | None, judged: int | None, trains: bool, size: int) -> Work:
    """Return the work of a run on so many training samples, None where their number is not known."""
    if not trains:
        return Work(steps=0, train_samples=samples, seen_samples=0, judged_samples=judged, size=size)
    if samples is None:
        return Work(steps=None, train_samples=None, seen_samples=None, judged_samples=judged, size=size)
    plan = run.recipe.plan(samples, seed=run.seed)
    steps = run.recipe.total_steps(plan)
    whole, rest = divmod(steps, plan.steps_per_epoch)
    seen = whole * plan.samples_per_epoch + min(rest * run.recipe.batch_size, plan.samples_per_epoch)
    return Work(steps=steps, train_samples=samples, seen_samples=seen, judged_samples=judged, size=size)
