"""What a row of a table costs: the extra columns, over the completed runs of the row."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from results.record import Memory, Parameters, Record


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Medians over the completed runs of a row; None where there is none, or where devices differ.

    `budget_parameters` is what was asked for, `adapter_parameters` what was reached; `trainable_percent` is the
    share of the latter in the model with them, adapter / (adapter + frozen), as the paper's Table 15 counts.
    `peak_memory_bytes` is what training allocated on an accelerator, or the peak of the whole process on a CPU
    (`whole_process`); a row that trains nothing has the peak of its evaluation and no `step_time_s`.
    """

    adapter_parameters: int | None = None
    head_parameters: int | None = None
    budget_parameters: int | None = None
    trainable_percent: float | None = None
    peak_memory_bytes: int | None = None
    step_time_s: float | None = None
    whole_process: bool = False
    devices: tuple[str, ...] = ()


def gather_facts(records: Sequence[Record]) -> Facts:
    """Return the facts of one row from its completed runs."""
    parameters = [record.parameters for record in records if record.parameters is not None]
    devices = tuple(sorted({record.provenance.device for record in records}))
    # Memory and time of different devices have no common median.
    comparable = records if len(devices) == 1 else ()
    memory = [record.memory for record in comparable if record.memory is not None]
    return Facts(
        adapter_parameters=_median(each.adapter for each in parameters),
        head_parameters=_median(each.head for each in parameters),
        budget_parameters=_median(each.budget_asked for each in parameters),
        trainable_percent=_median_number(_percent(each) for each in parameters),
        peak_memory_bytes=_median(_peak_bytes(each) for each in memory),
        step_time_s=_median_number(record.timing.step_median_s for record in comparable if record.timing is not None),
        whole_process=any(not _on_accelerator(each) for each in memory),
        devices=devices,
    )


def common_facts(rows: Sequence[Facts]) -> Facts:
    """Return the medians of the facts of several rows, None where their devices differ."""
    devices = tuple(sorted({device for row in rows for device in row.devices}))
    comparable = rows if len(devices) == 1 else ()
    return Facts(
        adapter_parameters=_median(row.adapter_parameters for row in rows),
        head_parameters=_median(row.head_parameters for row in rows),
        budget_parameters=_median(row.budget_parameters for row in rows),
        trainable_percent=_median_number(row.trainable_percent for row in rows),
        peak_memory_bytes=_median(row.peak_memory_bytes for row in comparable),
        step_time_s=_median_number(row.step_time_s for row in comparable),
        whole_process=any(row.whole_process for row in comparable),
        devices=devices,
    )


def _percent(parameters: Parameters) -> float | None:
    whole = parameters.adapter + parameters.frozen
    return 100 * parameters.adapter / whole if whole else None


def _peak_bytes(memory: Memory) -> int | None:
    phase = memory.train or memory.evaluation
    if phase is None:
        return None
    return phase.allocated_bytes if _on_accelerator(memory) else phase.process_peak_bytes


def _on_accelerator(memory: Memory) -> bool:
    return not memory.device.startswith("cpu")


def _median(values: Iterable[int | None]) -> int | None:
    present = [value for value in values if value is not None]
    return round(statistics.median(present)) if present else None


def _median_number(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None
