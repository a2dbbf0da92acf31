"""Predictions for every cell of a table from few steps: a method is predicted once or twice, not once per data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runners.plan import QuestionRun
from runners.planning.predict import PredictionError

if TYPE_CHECKING:
    from runners.planning.cells import PlannedCell

Job = tuple[str, Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a cell takes.

    Attributes:
        group: equal for cells whose steps differ in the number of classes alone.
        step_flops: operations of one training step at a full batch; None where nothing is trained.
        step_products: those of them that torch counts on every device: without attention.
        train_flops: of all steps; None where their number is not known.
        eval_flops: of the evaluation, the classifier's texts included.
        peak_bytes: the most memory in training, images that are kept on the device included.
        parts: what that peak is made of, by name, in bytes.
    """

    group: str
    step_flops: float | None
    step_products: float | None
    train_flops: float | None
    eval_flops: float | None
    peak_bytes: int | None
    parts: Mapping[str, int]


NOTHING = Forecast(
    group="",
    step_flops=None,
    step_products=None,
    train_flops=None,
    eval_flops=None,
    peak_bytes=None,
    parts={},
)


class Steps(Protocol):
    """What cells of one kind of data take."""

    def jobs(self, cells: Sequence[PlannedCell]) -> list[Job]:
        """Return what has to be worked out for cells, each with the group of the cells that need it."""

    def trained(self, cell: PlannedCell) -> Forecast:
        """Return what the training of a cell takes; with the group alone where it could not be predicted."""

    def judged(self, cell: PlannedCell) -> float | None:
        """Return the operations of the evaluation of a cell, None where the number of samples is not known."""


class Forecaster:
    """Predicts cells; every distinct step is predicted once.

    Args:
        images: predicts runs on images.
        questions: predicts runs on questions.

    Attributes:
        problems: why a step could not be predicted, by the group of its cells.
    """

    def __init__(self, *, images: Steps, questions: Steps) -> None:
        self._images, self._questions = images, questions
        self.problems: dict[str, str] = {}

    def learn(self, cells: Sequence[PlannedCell], *, on_progress: Callable[[int, int], None]) -> None:
        """Predict the steps that these cells need; ``on_progress`` hears how many of how many are done."""
        by_kind = [(one, [cell for cell in cells if self._of(cell) is one]) for one in (self._images, self._questions)]
        jobs = [job for kind, own in by_kind for job in kind.jobs(own)]
        for done, (group, job) in enumerate(jobs):
            on_progress(done, len(jobs))
            try:
                job()
            except PredictionError as error:
                self.problems[group] = str(error)
        on_progress(len(jobs), len(jobs))

    def forecast(self, cell: PlannedCell) -> Forecast:
        """Return what a cell takes; the cell is one of those learnt."""
        kind = self._of(cell)
        found = kind.trained(cell) if cell.trained else dataclasses.replace(NOTHING, train_flops=0.0)
        return dataclasses.replace(found, eval_flops=kind.judged(cell))

    def _of(self, cell: PlannedCell) -> Steps:
        return self._questions if isinstance(cell.run, QuestionRun) else self._images
