"""Peak memory by phase: what the accelerator's allocator says, or the process's resident peak on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch

from results.record import Memory, PhaseMemory

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class MemoryMeter:
    """Measures the phases ``load``, ``train`` and ``evaluation`` of one run.

    On a CPU the number is the peak resident size of the whole process, libraries included; it is reset between phases
    where Linux allows it, and absent elsewhere, because a peak that cannot be reset belongs to no phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: dict[str, PhaseMemory] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block as one phase, or as a further part of it: the larger peak counts."""
        accelerated = self.device.type == "cuda"
        resettable = False
        if accelerated:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            resettable = _reset_process_peak()
        yield
        if accelerated:
            peak = PhaseMemory(
                allocated_bytes=torch.cuda.max_memory_allocated(self.device),
                reserved_bytes=torch.cuda.max_memory_reserved(self.device),
            )
        elif resettable:
            peak = PhaseMemory(process_peak_bytes=_process_peak())
        else:
            return
        self.phases[name] = _larger(self.phases.get(name), peak)

    def memory(self) -> Memory:
        """Return what was measured."""
        return Memory(
            device=self.device.type,
            load=self.phases.get("load"),
            train=self.phases.get("train"),
            evaluation=self.phases.get("evaluation"),
        )


def _larger(before: PhaseMemory | None, now: PhaseMemory) -> PhaseMemory:
    if before is None:
        return now
    names = (each.name for each in fields(PhaseMemory))
    return PhaseMemory(**{name: _most(getattr(before, name), getattr(now, name)) for name in names})


def _most(*peaks: int | None) -> int | None:
    return max((peak for peak in peaks if peak is not None), default=None)


def _reset_process_peak() -> bool:
    try:
        _CLEAR.write_text("5")  # proc(5): 5 resets the peak resident set size
    except OSError:
        return False
    return True


def _process_peak() -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
