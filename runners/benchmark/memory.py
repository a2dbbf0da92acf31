"""Bytes that a training step allocates, as the allocator counts them."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runners.benchmark.step import TrainingStep, storage_bytes

if TYPE_CHECKING:
    from results.bench_record import StepMemory

_MARK = "randlora bench: end of "


@dataclass(frozen=True, kw_only=True)
class Allocated:
    """Bytes above those at the start of the step.

    Attributes:
        kept: at the end of the first forward pass, which is what is kept for the backward pass.
        peak: the largest at any moment of the step.
    """

    kept: int
    peak: int


def measure_memory(step: TrainingStep) -> StepMemory:
    """Take one step and return its memory by part; the optimizer's state is there already.

    On a CUDA device the caching allocator's peak is read. On a CPU every allocation and release of torch's allocator
    is recorded by its profiler. Neither changes what the step does, and hooks on saved tensors are left alone. Memory
    that libraries take past torch's allocator is in neither.
    """
    from results.bench_record import StepMemory

    gc.collect()
    allocated = _on_cuda(step) if step.device.type == "cuda" else _on_cpu(step)
    trained = {id(parameter) for parameter in step.trained}
    return StepMemory(
        frozen_bytes=storage_bytes(one for one in step.model.parameters() if id(one) not in trained),
        trained_bytes=storage_bytes(step.trained),
        buffer_bytes=storage_bytes(step.model.buffers()),
        optimizer_bytes=step.optimizer_bytes(),
        input_bytes=storage_bytes(step.inputs.values()),
        gradient_bytes=sum(one.numel() * one.element_size() for one in step.trained),
        kept_bytes=allocated.kept,
        step_peak_bytes=allocated.peak,
    )


def _on_cuda(step: TrainingStep) -> Allocated:
    kept: int | None = None
    before = torch.cuda.memory_allocated(step.device)
    torch.cuda.reset_peak_memory_stats(step.device)

    def read(phase: str) -> None:
        nonlocal kept
        if kept is None and phase == "forward":
            kept = torch.cuda.memory_allocated(step.device) - before

    step.take(read)
    return Allocated(kept=kept or 0, peak=torch.cuda.max_memory_allocated(step.device) - before)


def _on_cpu(step: TrainingStep) -> Allocated:
    from torch.autograd import profiler

    def mark(phase: str) -> None:
        with profiler.record_function(_MARK + phase):
            pass

    with profiler.profile(profile_memory=True) as profile:
        step.take(mark)
    return replay(profile.kineto_results.events())


def replay(events: Any) -> Allocated:
    """Return what the memory events of a profile add up to."""
    now = peak = 0
    kept: int | None = None
    for event in sorted(events, key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
        elif kept is None and event.name() == _MARK + "forward":
            kept = now
    return Allocated(kept=kept or 0, peak=peak)
