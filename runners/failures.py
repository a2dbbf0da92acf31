"""Why a run failed, as its record states it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from accelerate.utils.memory import should_reduce_batch_size

from randlora.backbones.errors import WeightsError
from randlora.data.errors import DataError
from results.record import Failure, FailureKind, Record
from runners.auditing import AuditError
from runners.provenance import provenance
from runners.trainer import DivergenceError

if TYPE_CHECKING:
    from runners.plan import Run

_KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (DivergenceError, "diverged"),
    (DataError, "data"),
    (WeightsError, "weights"),
    (AuditError, "contract"),
)


@dataclass(kw_only=True)
class Place:
    """How far a run is: the step it is at, from 1, of how many; both None before the first."""

    step: int | None = None
    steps: int | None = None
    over: bool = False

    def begun(self) -> None:
        """Note that the first step is under way, or the first after an interruption."""
        self.step = 1

    def trained(self) -> None:
        """Note that the training is over."""
        self.step, self.steps, self.over = None, None, True

    def passed(self, done: int, total: int) -> None:
        """Note that ``done`` steps are completed."""
        self.step, self.steps = min(done + 1, total), total

    def __str__(self) -> str:
        if self.over:
            return "in the evaluation"
        if self.step is None:
            return "before the first step"
        return f"at step {self.step} of {self.steps}" if self.steps is not None else "in the first step"


def failure_of(error: Exception, place: Place) -> tuple[Failure, str]:
    """Return why a run failed, and the same in one line."""
    kind: FailureKind = next((kind for known, kind in _KINDS if isinstance(error, known)), "error")
    text = (str(error).strip().splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, MemoryError) or should_reduce_batch_size(error):
        kind, reason = "out_of_memory", f"out of memory {place}: {text or type(error).__name__}"
    return Failure(kind=kind, step=place.step, steps=place.steps), reason


def failed_record(run: Run, failure: Failure, reason: str) -> Record:
    """Return the record of a run that could not write its own."""
    source = provenance(run.machine, data_digests={}, weights_digest=None, started_at=datetime.now(UTC))
    return Record(
        id=run.id,
        key=run.key,
        config=run.config,
        status="failed",
        reason=reason,
        failure=failure,
        provenance=source,
    )
