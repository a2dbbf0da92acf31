"""The number of a run that a table shows: a metric of its record, or what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from results.record import Record


def value_of(record: Record, metric: str) -> float | None:
    """Return the number of a completed run, None if its record has none."""
    cost = COSTS.get(metric)
    return cost(record) if cost is not None else record.metrics.get(metric)


def _step_s(record: Record) -> float | None:
    return record.timing.step_median_s if record.timing is not None else None


def _train_bytes(record: Record) -> float | None:
    # The peak of a process on a CPU also holds libraries and earlier runs; shares of it say nothing.
    phase = record.memory.train if record.memory is not None else None
    return phase.allocated_bytes if phase is not None else None


COSTS: Mapping[str, Callable[[Record], float | None]] = {"cost/step_s": _step_s, "cost/train_bytes": _train_bytes}
"""Median seconds of a training step; peak bytes that training allocated on an accelerator."""
