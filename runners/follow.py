"""Following workers on other computers by what they leave in the results folder, until nothing is left."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from results.claims import Claims, Holder
from results.record import RecordError
from results.store import RecordStore
from runners.events import Recorded, Started
from runners.work import title_of

if TYPE_CHECKING:
    from runners.handout import Handout
    from runners.sweep_progress import SweepProgress
    from runners.worklist import WorkList

LOOK_EVERY_S = 1.0
ASK_EVERY_S = 5.0  # the engine, which has others to serve
READ_ALL_EVERY_S = 30.0
END_WITHIN_S = 90.0


class Engine(ABC):
    """What starts workers on other computers and knows which are there."""

    @abstractmethod
    def alive(self) -> Mapping[str, str] | None:
        """Return the state of every worker that runs or waits for its turn; None where it does not answer now."""

    @abstractmethod
    def withdraw(self) -> None:
        """Take back the workers that have not started."""

    @abstractmethod
    def end(self) -> None:
        """End all workers."""


class Watch:
    """Tells the display what happens to runs, from claims and records alone."""

    def __init__(self, todo: WorkList, *, show: SweepProgress) -> None:
        self.show = show
        self.store = RecordStore(todo.results)
        self.claims = Claims(todo.results, stale_after_s=todo.rules.stale_after_s)
        self.todo = todo
        self.left = {run.id: run for run in todo.runs}
        self._held: dict[str, Holder] = {}
        self._at: dict[str, str] = {}
        self._read_all_at = float("-inf")

    def look(self, *, closely: bool = False) -> int:
        """Take note of what has changed and return how many runs are left.

        Records are read of runs that were given back since the last look, and now and then, or ``closely``, of all.
        """
        running = {run: holder for run, holder in self.claims.running().items() if run in self.left}
        for run, holder in running.items():
            if run not in self._held or self._held[run].token != holder.token:
                self._begin(run, holder)
        everything = closely or time.monotonic() - self._read_all_at > READ_ALL_EVERY_S
        self._read_all_at = time.monotonic() if everything else self._read_all_at
        given_back = [run for run in self._held if run not in running]
        self._finish(list(self.left) if everything else given_back, {**self._held, **running})
        self._held = {run: holder for run, holder in running.items() if run in self.left}
        return len(self.left)

    def _begin(self, run: str, holder: Holder | None) -> None:
        worker = _called(holder)
        if self._at.get(worker) != run:
            self._at[worker] = run
            self.show.on_event(worker, Started(run=run, title=title_of(self.left[run])))

    def _finish(self, runs: Iterable[str], holders: Mapping[str, Holder]) -> None:
        for run in runs:
            if run not in self.left or not self.todo.is_done(self.store, run):
                continue
            try:
                record = self.store.read(run)
            except RecordError:
                continue  # the sweep says at its end what is wrong with it
            if record is None:
                continue
            self._begin(run, holders.get(run))
            del self.left[run]
            self.show.on_event(_called(holders.get(run)), Recorded.of(record))


def follow(
    todo: WorkList,
    *,
    handout: Handout,
    engine: Engine,
    show: SweepProgress,
    stop: Callable[[], bool],
    cancel_on_stop: bool,
) -> bool:
    """Show what workers do until nothing is left or none is left to do it; return whether they go on without us.

    Args:
        todo: the work list.
        handout: the folder that they have it from.
        engine: what started them.
        show: is told what happens.
        stop: asked all the time.
        cancel_on_stop: whether the workers stop, too.
    """
    watch = Watch(todo, show=show)
    asked_at, said, nobody = float("-inf"), "", 0
    while watch.look():
        if stop() and not cancel_on_stop:
            return True
        if stop() or (todo.rules.fail_fast and show.failed):
            break
        if time.monotonic() - asked_at >= ASK_EVERY_S:
            asked_at, alive = time.monotonic(), engine.alive()
            state = "does not answer" if alive is None else _counted(alive)
            if state != said:
                said = state
                show.note(f"workers: {state}")
            nobody = nobody + 1 if alive is not None and not alive else 0
            # twice, so that the last one's record is seen on a disk that tells others late
            if nobody > 1 and watch.look(closely=True):
                show.note(f"no worker is left, and {len(watch.left)} runs are; what they printed: {handout.folder}")
                break
        time.sleep(LOOK_EVERY_S)
    _wind_down(handout, engine, watch)
    return False


def _wind_down(handout: Handout, engine: Engine, watch: Watch) -> None:
    """Let the workers stop in order, and end those that do not."""
    handout.stop()
    engine.withdraw()
    deadline = time.monotonic() + END_WITHIN_S
    while engine.alive() != {}:
        if time.monotonic() > deadline:
            engine.end()
            break
        time.sleep(LOOK_EVERY_S)
    handout.clear()
    watch.look(closely=True)


def _called(holder: Holder | None) -> str:
    return holder.worker if holder is not None and holder.worker else "another worker"


def _counted(alive: Mapping[str, str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(alive.values()).items())) or "none"
