"""The sign of life of a run under way, and the end of one that gives none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from results.claims import Claim

BEATS = 6  # in the time after which a worker counts as dead
LOOK_EVERY_S = 1.0
GRACE_S = 60.0  # for a run that was told to stop to reach the end of a step


class Heartbeat:
    """Touches a claim from a thread, as long as the block lasts and the claim is held.

    Args:
        claim: the claim.
        timeout_s: seconds that the run may take; None for as long as it wants.
        on_hung: called from the thread where the run is still there ``grace_s`` after that.
        grace_s: see there.

    Attributes:
        lost: whether somebody else has taken the run over.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        timeout_s: float | None,
        on_hung: Callable[[], None] | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.claim = claim
        self.timeout_s = timeout_s
        self.on_hung = on_hung
        self.grace_s = grace_s
        self.lost = False
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    @property
    def timed_out(self) -> bool:
        """Whether the run has taken longer than it may."""
        return self.timeout_s is not None and self.elapsed_s > self.timeout_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        every_s = self.claim.claims.stale_after_s / BEATS
        last = time.monotonic()
        while not self._over.wait(min(LOOK_EVERY_S, every_s)):
            if time.monotonic() - last >= every_s:
                last = time.monotonic()
                if not self.claim.touch():
                    self.lost = True
                    return
            hung = self.timeout_s is not None and self.elapsed_s > self.timeout_s + self.grace_s
            if hung and self.on_hung is not None:
                self.on_hung()
                return
