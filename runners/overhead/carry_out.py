"""Runs carried out in this fresh process as a sweep does it, and the moments at which each of them ended.

`python -m runners.overhead.carry_out REQUEST ANSWER`, both JSON files: see :class:`Request`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import Progress

from runners.compose import compose, compose_parts, instantiate
from runners.events import Event, Recorded
from runners.interrupt import stop_on_signals
from runners.sweep_progress import SweepProgress

TABLE = "table=not_used"  # the launcher's config comes from that of the sweep, which asks for one


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be carried out: overrides of each run, overrides that choose the launcher, folder of the records."""

    jobs: Sequence[Sequence[str]]
    launcher: Sequence[str]
    results: str

    def write(self, path: Path) -> None:
        """Write it where the process will find it."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class TimedProgress(SweepProgress):
    """What a sweep shows, and by worker the run and the moment (of a clock that only grows) of each record."""

    def __init__(self, total: int, bars: Progress | None, *, named: bool) -> None:
        super().__init__(total, bars, named=named)
        self.recorded: dict[str, list[tuple[str, float]]] = {}

    def on_event(self, worker: str, event: Event) -> None:
        """Take the moment of a record, and show what happened."""
        if isinstance(event, Recorded):
            self.recorded.setdefault(worker, []).append((event.run, time.monotonic()))
        super().on_event(worker, event)


def carry_out(request: Request) -> Mapping[str, list[tuple[str, float]]]:
    """Carry the runs out, and return the runs and moments of the records, by worker.

    Raises:
        ConfigError: for a run or a launcher that cannot be meant.
        StoreError: if the disk refuses what is to be written.
    """
    from results.claims import Claims
    from results.store import RecordStore
    from runners.plan import Planner
    from runners.worklist import Rules, WorkList

    launcher = instantiate(compose("sweep", [TABLE, *request.launcher]))["launcher"]
    planner, store = Planner(), RecordStore(Path(request.results))
    store.scan()
    runs = [planner.check(composed) for composed in compose_parts("config", request.jobs)]
    todo = WorkList.of(runs, store=store, rules=Rules())
    Claims(todo.results).bury()
    show = TimedProgress(len(todo.runs), None, named=True)
    with stop_on_signals() as stop:
        launcher.launch(todo, show=show, stop=stop)
    return show.recorded


if __name__ == "__main__":
    asked, answer = map(Path, sys.argv[1:])
    answer.write_text(json.dumps(carry_out(Request(**json.loads(asked.read_text(encoding="utf-8"))))), encoding="utf-8")
