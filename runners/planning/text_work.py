"""The work of runs on questions, and the length that their texts are taken to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from randlora.data.errors import DataError
from randlora.data.text_feed import MULTIPLE
from runners.compose import ConfigError
from runners.data_questions import on_disk
from runners.plan import QuestionRun, Run
from runners.planning.work import Work, work_of

if TYPE_CHECKING:
    from pathlib import Path

    from randlora.data.questions import LanguageDataset

TRAIN = "train"


class QuestionCounter:
    """See :class:`runners.planning.work.WorkCounter`.

    Args:
        tokens: length of all texts; None: the cutoff of the recipe, which is the most.
    """

    def __init__(self, *, tokens: int | None) -> None:
        self._tokens = tokens
        self._sizes: dict[str, dict[str, int | None]] = {}

    def work(self, run: Run) -> Work:
        """See :class:`runners.planning.work.WorkCounter`; a text that is left out for its length counts.

        Raises:
            ConfigError: for a length above the cutoff, or where more questions are asked for than there are.
        """
        assert isinstance(run, QuestionRun)
        recipe, sizes = run.recipe, self._sizes_of(run)
        known = sizes[TRAIN]
        n = None if known is None else known - recipe.validation
        if recipe.questions is not None:
            if n is not None and recipe.questions > n:
                raise ConfigError(
                    f"recipe.questions={recipe.questions:,}, but dataset {run.dataset.name} has {n:,} training "
                    f"questions beside the {recipe.validation:,} held out"
                )
            n = recipe.questions
        if n is not None and n < 1:
            raise ConfigError(
                f"recipe.validation={recipe.validation:,} leaves none of the {known:,} training questions of dataset "
                f"{run.dataset.name}"
            )
        tests = [size for key, size in sizes.items() if key != TRAIN]
        judged = None if None in tests else sum(size for size in tests if size is not None)
        if recipe.evaluate_on == "validation":
            judged = recipe.validation
        trains = run.solution.reached > 0
        return work_of(run, samples=n, judged=judged, trains=trains, size=self._length(run))

    def head(self, run: Run) -> int:
        """Return 0: language models are trained without a head of their own."""
        return 0

    def _length(self, run: QuestionRun) -> int:
        cutoff = run.recipe.cutoff
        if self._tokens is not None and self._tokens > cutoff:
            raise ConfigError(f"tokens={self._tokens}: a text of this recipe has at most {cutoff} tokens (its cutoff)")
        return -(-(self._tokens or cutoff) // MULTIPLE) * MULTIPLE

    def _sizes_of(self, run: QuestionRun) -> dict[str, int | None]:
        """Return the questions of each part as stated, else as they are on this machine."""
        dataset, root = run.dataset, run.machine.data_path
        key = repr(dataset)
        if key not in self._sizes:
            self._sizes[key] = {
                part: stated if stated is not None else _read(on_disk(dataset), part, root)
                for part, stated in dataset.sizes.items()
            }
        return self._sizes[key]


def _read(dataset: LanguageDataset, part: str, root: Path) -> int | None:
    try:
        found = dataset.training(root=root) if part == TRAIN else dataset.tasks[part].test(root=root)
    except DataError:
        return None
    return len(found)
