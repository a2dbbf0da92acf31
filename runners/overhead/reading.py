"""What the verbs that read records take where there are many."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from results.index import NAME as INDEX
from results.overhead_record import Reading
from runners.identities import NAME as IDENTITIES
from runners.overhead.ways import verb


def readings(
    records: Path, *, table: str, to: Path, times: int, on_reading: Callable[[str, int], None]
) -> tuple[Reading, ...]:
    """Return what status and table take: ``times`` times where nothing was read before, and as often after that.

    Args:
        records: the folder; what is kept in it from reading to reading is removed at first.
        table: the table that is printed.
        to: where it is written.
        times: how often.
        on_reading: is told the command and how many readings of it are done.
    """
    commands = {
        "randlora status": ["status", f"records={records}"],
        f"randlora table table={table}": ["table", f"table={table}", f"records={records}", f"to={to}"],
    }
    found = []
    for shown, command in commands.items():
        first, again = [], []
        for done in range(times):
            on_reading(shown, 2 * done)
            for kept in (INDEX, IDENTITIES):
                (records / kept).unlink(missing_ok=True)
            first.append(_seconds(command))
            on_reading(shown, 2 * done + 1)
            again.append(_seconds(command))
        found.append(Reading(command=shown, first_s=tuple(first), again_s=tuple(again)))
    return tuple(found)


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    verb(*command)
    return time.perf_counter() - began
