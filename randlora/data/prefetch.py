"""Working ahead: items are made in a background thread while the ones before are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

Item = TypeVar("Item")
PATIENCE_S = 0.1  # how long a full queue is waited for before the thread looks whether it is still wanted


def prefetched(make: Callable[[int], Item], *, start: int, stop: int, depth: int) -> Generator[Item, None, None]:
    """Yield ``make(start)`` to ``make(stop - 1)`` in order, up to ``depth`` of them made ahead by one thread.

    What ``make`` raises is raised here, in its place in the order. The thread ends with the iterator: when it is used
    up, closed or collected.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> bool:
        while not unwanted.is_set():
            try:
                ready.put((item, error), timeout=PATIENCE_S)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        for number in range(start, stop):
            try:
                item = make(number)
            except BaseException as error:  # whatever it is, it belongs to whoever asked for the item
                put(None, error)
                return
            if not put(item, None):
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        unwanted.set()
        thread.join()
