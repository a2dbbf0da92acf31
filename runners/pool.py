"""A pool of persistent worker processes on this computer, and what becomes of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from results.claims import Claims
from results.files import StoreError
from results.store import RecordStore
from runners.events import Broken, Recorded, Started
from runners.launchers import WorkerError
from runners.run_log import tail
from runners.worker_process import BROKEN, HELD_BACK, run_worker

if TYPE_CHECKING:
    from runners.sweep_progress import SweepProgress
    from runners.worklist import WorkList

WORKERS = ".workers"  # folder of what workers print outside their runs
PRELOAD = (run_worker.__module__,)  # what a worker has loaded when it starts
BARREN = 3  # workers in a row that end before they begin a run
LOOK_EVERY_S = 0.5


@dataclass(kw_only=True)
class _Slot:
    """One place of the pool and the process that has it now."""

    number: int
    name: str
    process: BaseProcess
    connection: Connection
    log: Path


class Pool:
    """Keeps ``count`` workers at a work list until nothing is left.

    A worker that dies is replaced, and its run is taken up by whoever is free; how many a run may take with it, the
    rules of the work list say.

    Args:
        todo: the work list.
        count: how many workers.
        threads: CPU threads of each; None leaves torch's choice.
        gpus: the GPU of each worker, as CUDA_VISIBLE_DEVICES names it; empty where there is none.
        show: is told what happens.
        stop: asked all the time.
        name: what people call the pool where it is one of several; empty where it is the only one.
    """

    def __init__(
        self,
        todo: WorkList,
        *,
        count: int,
        threads: int | None,
        gpus: tuple[str, ...],
        show: SweepProgress,
        stop: Callable[[], bool],
        name: str = "",
    ) -> None:
        self.todo = todo
        self.count = count
        self.threads = threads
        self.gpus = gpus
        self.show = show
        self.stop = stop
        self.name = name
        self._context = _context()
        self._slots: dict[int, _Slot] = {}
        self._barren = 0
        self._broken: str | None = None
        self._ending = False

    def run(self) -> None:
        """Work until nothing is left, or somebody says stop.

        Raises:
            StoreError: if the disk refuses what a worker writes; what is there is intact.
            WorkerError: if workers end before they begin a run.
        """
        try:
            for number in range(self.count):
                self._start(number)
            while self._slots:
                if self.stop():
                    self._end()
                self._hear()
        finally:
            self._kill()
        if self._broken is not None:
            raise StoreError(self._broken)

    def _start(self, number: int) -> None:
        log = self.todo.results / WORKERS / f"{os.uname().nodename}-{os.getpid()}-{number + 1}.log"
        name = f"{self.name} worker {number + 1}".lstrip()
        ours, theirs = self._context.Pipe(duplex=False)
        arguments = {
            "name": name,
            "number": number,
            "count": self.count,
            "threads": self.threads,
            "gpu": self.gpus[number] if self.gpus else None,
            "connection": theirs,
            "log": log,
        }
        process = self._context.Process(target=run_worker, args=(self.todo,), kwargs=arguments, daemon=False)
        with _signals_held_back():
            process.start()
        theirs.close()
        self._slots[number] = _Slot(number=number, name=name, process=process, connection=ours, log=log)

    def _hear(self) -> None:
        """Wait a moment for what workers tell, and for those that end."""
        slots = {slot.connection: slot for slot in self._slots.values()}
        ends = {slot.process.sentinel: slot for slot in self._slots.values()}
        for ready in wait([*slots, *ends], timeout=LOOK_EVERY_S):
            if isinstance(ready, Connection):
                self._listen(slots[ready])
        for slot in ends.values():
            if not slot.process.is_alive():
                self._ended(slot)

    def _listen(self, slot: _Slot) -> None:
        try:
            while slot.connection.poll():
                event = slot.connection.recv()
                if isinstance(event, Broken):
                    self._broken = event.message
                    self._end()
                    continue
                if isinstance(event, Started):
                    self._barren = 0
                self.show.on_event(slot.name, event)
                if isinstance(event, Recorded) and not event.ok and self.todo.rules.fail_fast:
                    self._end()
        except (EOFError, OSError):
            return  # it has ended, or it was killed in the middle of a word

    def _ended(self, slot: _Slot) -> None:
        self._listen(slot)
        slot.process.join()
        slot.connection.close()
        del self._slots[slot.number]
        code = slot.process.exitcode
        if code == 0:
            slot.log.unlink(missing_ok=True)
        if code in (0, BROKEN) or self._ending or not self.todo.left(RecordStore(self.todo.results)):
            return
        self._barren += 1
        if self._barren >= BARREN * self.count:
            shown = "\n  ".join(tail(slot.log, lines=10)) or "nothing"
            raise WorkerError(f"workers end before they begin a run ({_how(code)}); the last one printed:\n  {shown}")
        self.show.died(slot.name, _how(code))
        self._start(slot.number)

    def _end(self) -> None:
        """Ask every worker to stop."""
        if not self._ending:
            self._ending = True
            for slot in self._slots.values():
                slot.process.terminate()

    def _kill(self) -> None:
        """End the workers that are still there, and what they have claimed."""
        for slot in self._slots.values():
            slot.process.kill()
            slot.process.join()
        self._slots.clear()
        Claims(self.todo.results).bury()
        with contextlib.suppress(OSError):  # not there, or not empty
            (self.todo.results / WORKERS).rmdir()


def _context() -> ForkServerContext | SpawnContext:
    """Return how processes are started: where it can be, as copies of one that has loaded what all need, no more."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start processes that the terminal, or a cluster that signals every process of a job, cannot interrupt.

    Not even while they load what they need; and processes that they start are spared, too (see :func:`run_worker`).
    """
    # starting it lets signals through again, to the processes that are to be spared
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
