"""Working ahead: items are made in a background thread while the ones before are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
PATIENCE_S = 0.1  # how long a full queue is waited for before the thread looks whether it is still wanted


@dataclass(frozen=True)
class _Failure:
    """What making an item raised."""

    error: BaseException


def prefetched(make: Callable[[int], Item], *, start: int, stop: int, depth: int) -> Generator[Item, None, None]:
    """Yield ``make(start)`` to ``make(stop - 1)`` in order, up to ``depth`` of them made ahead by one thread.

    What ``make`` raises is raised here, in its place in the order. The thread ends with the iterator: when it is used
    up, closed or collected.
    """
    ready: queue.Queue[Item | _Failure] = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def put(found: Item | _Failure) -> bool:
        while not unwanted.is_set():
            try:
                ready.put(found, timeout=PATIENCE_S)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        for number in range(start, stop):
            try:
                item = make(number)
            except BaseException as error:  # whatever it is, it belongs to whoever asked for the item
                put(_Failure(error))
                return
            if not put(item):
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            found = ready.get()
            if isinstance(found, _Failure):
                raise found.error
            yield found
    finally:
        unwanted.set()
        thread.join()
