"""The runs of a sweep, as any number of workers carry them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from results.claims import STALE_AFTER_S

if TYPE_CHECKING:
    from results.store import RecordStore
    from runners.plan import Run

Group = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a sweep deals with trouble.

    Attributes:
        attempts: workers that may die of a run before it counts as failed.
        timeout_s: seconds that a run may take at a time; None: as long as it wants.
        fail_fast: stop at the first run that fails.
        stale_after_s: a worker on another computer that gives no sign for so long is dead.
    """

    attempts: int = 3
    timeout_s: float | None = None
    fail_fast: bool = False
    stale_after_s: float = STALE_AFTER_S


@dataclass(frozen=True, kw_only=True)
class WorkList:
    """What is to be done; it can be pickled.

    Attributes:
        runs: in the order in which one worker would take them (see :func:`in_groups`).
        before: what the record of each run was when the sweep began (see :meth:`results.store.RecordStore.stamp`): a
            run whose record is another one is done, whoever did it.
        results: folder of the records.
        rules: how to deal with trouble.
    """

    runs: tuple[Run, ...]
    before: Mapping[str, str | None]
    results: Path
    rules: Rules

    @classmethod
    def of(cls, runs: Iterable[Run], *, store: RecordStore, rules: Rules) -> WorkList:
        """Return the work list of runs, in groups, with the stamps of their records as they are now."""
        ordered = in_groups(tuple(runs))
        before = {run.id: store.stamp(run.id) for run in ordered}
        return cls(runs=ordered, before=before, results=store.root, rules=rules)

    def is_done(self, store: RecordStore, run: str) -> bool:
        """Return whether a run was recorded since the sweep began."""
        return store.stamp(run) != self.before[run]

    def left(self, store: RecordStore) -> list[str]:
        """Return the ids of the runs that were not recorded since the sweep began."""
        return [run.id for run in self.runs if not self.is_done(store, run.id)]


def group_of(run: Run) -> Group:
    """Return what a worker keeps in memory from run to run: backbone and data set."""
    return (run.key.backbone, run.key.dataset)


def in_groups(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return runs of one backbone together, and of one data set within them, else in their order."""
    backbones = {name: place for place, name in enumerate(dict.fromkeys(run.key.backbone for run in runs))}
    groups = {group: place for place, group in enumerate(dict.fromkeys(map(group_of, runs)))}
    return tuple(sorted(runs, key=lambda run: (backbones[run.key.backbone], groups[group_of(run)])))
