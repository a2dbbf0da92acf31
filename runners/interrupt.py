"""Stopping between two steps instead of inside one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A run stopped at a step boundary on request; its state is saved."""


class Released(BaseException):
    """What a process had to do for a run is done; another one finishes and records it."""


class StopRequest:
    """Set by the first SIGINT or SIGTERM; a second one interrupts at once.

    Args:
        again_after_s: a second one sooner than this is the first one again: launchers of several processes pass on what
            the terminal has sent to all of them.
    """

    def __init__(self, *, again_after_s: float = 0.0) -> None:
        self.asked = False
        self.again_after_s = again_after_s
        self._asked_at = 0.0

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.asked

    def ask(self) -> None:
        """Ask to stop."""
        self.asked = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._asked_at = True, now
        elif now - self._asked_at >= self.again_after_s:
            raise KeyboardInterrupt


@contextmanager
def stop_on_signals(*, again_after_s: float = 0.0) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request for the duration of the block (in the main thread)."""
    request = StopRequest(again_after_s=again_after_s)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request._ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
