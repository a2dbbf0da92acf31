"""One persistent process of a pool: what it does, and how it talks to the one that started it."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from results.files import StoreError
from runners.events import Broken, Event, Judged, Stepped
from runners.interrupt import StopRequest
from runners.run_log import output_to
from runners.work import Worker
from runners.worklist import WorkList

GPUS = "CUDA_VISIBLE_DEVICES"
TELL_EVERY_S = 0.2
BROKEN = 74  # exit code of a worker that told why it cannot go on
# blocked from the start: SIGINT and the users' signals are for the parent, SIGTERM is for the worker itself alone
HELD_BACK = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})


class Link:
    """Tells the parent what happens, steps not oftener than people can read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told_at = 0.0

    def __call__(self, event: Event) -> None:
        """Tell an event; without a parent nobody is told, and the process is about to stop."""
        if isinstance(event, Stepped | Judged):
            now = time.monotonic()
            if now - self._told_at < TELL_EVERY_S and event.done < event.total:
                return
            self._told_at = now
        try:
            self._connection.send(event)
        except OSError:
            return


def run_worker(
    todo: WorkList,
    *,
    name: str,
    number: int,
    count: int,
    threads: int | None,
    gpu: str | None,
    connection: Connection,
    log: Path,
) -> None:
    """Be worker ``number`` of ``count`` until nothing is left; SIGTERM, or the end of the parent, stops it in order.

    The process is started with ``HELD_BACK`` blocked, and so are processes that it starts, such as those that decode
    images: where SIGTERM is sent to all of them, the run still comes to the end of its step.

    Args:
        todo: the work list.
        name: what people call the worker.
        number: from 0.
        count: of all workers of the pool.
        threads: CPU threads where a run does not state them itself; None leaves torch's choice.
        gpu: the one that the worker sees, as CUDA_VISIBLE_DEVICES names it; None where there is none.
        connection: to the parent.
        log: where what belongs to no run is printed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent hears it too, and says what to do
    stop = StopRequest()
    _wait_for(signal.SIGTERM, stop)
    _watch_parent(stop)
    if gpu is not None:
        os.environ[GPUS] = gpu  # nothing has looked for GPUs so far
    report = Link(connection)
    try:
        with output_to(log):
            faulthandler.enable()
            _work(
                Worker(
                    with_threads(todo, threads),
                    name=name,
                    number=number,
                    count=count,
                    own_process=True,
                    stop=stop,
                    report=report,
                )
            )
    except StoreError as error:
        report(Broken(message=str(error)))
        sys.exit(BROKEN)


def _work(worker: Worker) -> None:
    try:
        worker.work()
    except StoreError:
        raise
    except Exception:  # whatever it is, the log is where people look for it
        traceback.print_exc()
        sys.exit(1)


def with_threads(todo: WorkList, threads: int | None) -> WorkList:
    """Return the work list with so many threads for runs that do not state how many they want."""
    if threads is None:
        return todo
    machines = {id(run.machine): dataclasses.replace(run.machine, threads=threads) for run in todo.runs}
    runs = (
        run if run.machine.threads is not None else dataclasses.replace(run, machine=machines[id(run.machine)])
        for run in todo.runs
    )
    return dataclasses.replace(todo, runs=tuple(runs))


def _wait_for(number: signal.Signals, stop: StopRequest) -> None:
    """Stop on a signal that is blocked in this thread and those that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    def wait_for() -> None:
        signal.sigwait({number})
        stop.ask()

    threading.Thread(target=wait_for, daemon=True, name=f"wait for {number.name}").start()


def _watch_parent(stop: StopRequest) -> None:
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        stop.ask()

    threading.Thread(target=watch, daemon=True, name="watch parent").start()
