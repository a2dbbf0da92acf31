"""How the runs of a sweep are carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runners.interrupt import Interrupted

if TYPE_CHECKING:
    from results.record import Record
    from runners.plan import Run


@dataclass(kw_only=True)
class Tally:
    """What became of the runs of a sweep."""

    ok: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    left: int = 0
    stopped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Local:
    """Runs one after another in this process.

    Attributes:
        fail_fast: stop at the first run that fails.
        retry_failed: run those again whose record says failed.
        rerun: run again even those that are done.
    """

    fail_fast: bool
    retry_failed: bool
    rerun: bool

    def pending(self, ids: Sequence[str], records: Mapping[str, Record]) -> list[str]:
        """Return the ids that are to be run, in order and without repeats."""
        return [id for id in dict.fromkeys(ids) if self._wanted(records.get(id))]

    def launch(self, runs: Sequence[Run], *, execute: Callable[[Run], Record], stop: Callable[[], bool]) -> Tally:
        """Carry out the runs and return what became of them."""
        tally = Tally()
        for position, run in enumerate(runs):
            tally.left = len(runs) - position
            if stop():
                tally.stopped = "stopped between two runs; the same command continues"
                return tally
            try:
                record = execute(run)
            except Interrupted as interrupted:
                tally.stopped = str(interrupted)
                return tally
            if record.status == "ok":
                tally.ok += 1
            else:
                tally.failed[run.id] = record.reason or record.status
                if self.fail_fast:
                    tally.left -= 1
                    tally.stopped = "stopped at the first failure (launcher.fail_fast=true)"
                    return tally
        tally.left = 0
        return tally

    def _wanted(self, record: Record | None) -> bool:
        if record is None or self.rerun:
            return True
        return record.status == "failed" and self.retry_failed
