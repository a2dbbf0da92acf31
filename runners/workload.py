"""What of a run depends on the kind of its data: the feed, the objective, and how the trained model is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from randlora.data.feed import Feed
from randlora.inject import Adaptation
from randlora.tasks.base import Objective
from runners.selection import Selection

if TYPE_CHECKING:
    import pandas as pd

LogStep = Callable[[int, Mapping[str, float]], None]
OnJudged = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a trained model is worth.

    Attributes:
        metrics: by name, as the record states them.
        frame: one row for each thing that was judged.
        notes: what the record should say of it.
    """

    metrics: Mapping[str, float]
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


class Workload(ABC):
    """The data of one run around its model."""

    objective: Objective
    digests: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    @abstractmethod
    def feed(self) -> Feed:
        """The training samples.

        Raises:
            DataError: if they are missing or malformed, or there are fewer than asked for.
        """

    def adapt(self, adaptation: Adaptation) -> None:  # noqa: B027 - most workloads leave adapters as they are
        """Set what the recipe asks of adapters."""

    def selection(self, *, log: LogStep) -> Selection | None:
        """Return what chooses among the steps of the training; None keeps the last."""
        return None

    @abstractmethod
    def judge(self) -> Judged:
        """Judge the model as it is, its adapters merged.

        Raises:
            Interrupted: if the run was asked to stop; what is judged already is kept.
        """

    def clear(self) -> None:  # noqa: B027 - most workloads keep nothing between interruptions
        """Remove what was kept for a continuation."""
