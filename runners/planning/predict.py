"""Memory and operations of a training step, from a step on tensors without memory: no weights, no images, no GPU."""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from randlora.adapter import AdapterMethod
from results.bench_record import StepMemory
from runners.planning.step import RunStep, StepShape, with_blank_texts
from runners.planning.tracker import StepTracker

if TYPE_CHECKING:
    from randlora.backbones.base import ImageBackbone

# units of torch's allocators, in bytes: the caching allocator of a CUDA device rounds up
BLOCKS = {"cpu": 1, "cuda": 512}


class PredictionError(ValueError):
    """A step that cannot be predicted; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a training step takes.

    Attributes:
        trained: number of trained parameters, the head's among them.
        memory: bytes by part, as `randlora bench` measures them.
        products: operations of matrix products and convolutions in one step.
        attention: operations of attention in one step.
        forward: operations of the forward passes of one step, attention included.
        peak_bytes: the most bytes alive at any moment of the step, everything included.
        by_batch: the step depends on the number of distinct classes in a micro-batch and not on that of all classes.
    """

    trained: int
    memory: StepMemory
    products: int
    attention: int
    forward: int
    peak_bytes: int
    by_batch: bool

    @property
    def flops(self) -> int:
        """Operations of one step."""
        return self.products + self.attention

    def number(self, name: str) -> float:
        """Return a number by its name, of the step or of its memory."""
        return float(getattr(self if hasattr(self, name) else self.memory, name))


_known: dict[str, Prediction] = {}


def predict(shape: StepShape) -> Prediction:
    """Return what a step of this shape takes; it is worked out once per process.

    Raises:
        PredictionError: if the step cannot run without values, or does not fit the model.
    """
    if shape.key not in _known:
        _known[shape.key] = _predicted(shape)
    return _known[shape.key]


def _predicted(shape: StepShape) -> Prediction:
    gc.collect()
    gc.freeze()  # what is loaded already need not be gone through while the step runs
    try:
        three_valued = _three_valued(shape) if shape.execution.bases == "compact" else ()
        tracker = StepTracker(block=BLOCKS[shape.device], most_distinct=shape.classes, equal=three_valued)
        blank = replace(shape, backbone=with_blank_texts(shape.backbone))
        skeleton = skeleton_of(shape.backbone)
        with FakeTensorMode(), tracker:
            step = RunStep(blank, fake_copy(skeleton))
            return _watch(step, tracker)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise PredictionError(f"{type(shape.method).__name__}: {type(error).__name__}: {first}") from error
    finally:
        gc.unfreeze()


@cache
def skeleton_of(backbone: ImageBackbone) -> nn.Module:
    """Return a backbone on the meta device; it is the same at every call, so change a copy."""
    return backbone.skeleton()


def fake_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model on the meta device with its tensors as the surrounding mode makes them on the CPU.

    Weights that are tied stay so.
    """
    made: dict[int, Any] = {}
    for one in model.parameters():
        made[id(one)] = nn.Parameter(torch.empty(one.shape, dtype=one.dtype), requires_grad=one.requires_grad)
    made |= {id(buffer): torch.empty(buffer.shape, dtype=buffer.dtype) for buffer in model.buffers()}
    return copy.deepcopy(model, made)


def _three_valued(shape: StepShape) -> list[bool]:
    """Return of each frozen basis whether it holds three values, which is asked of it before it is made compact."""
    if not isinstance(shape.method, AdapterMethod):
        return []
    sites = shape.backbone.targets_of(skeleton_of(shape.backbone)).sites
    shared = shape.method.shared(sites, 0)
    if shared is None:
        return []
    names = [name for name, _ in shared.named_buffers()]
    shared.compact()
    return [not shared.get_buffer(name).is_floating_point() for name in names]


def _watch(step: RunStep, tracker: StepTracker) -> Prediction:
    kept: int | None = None
    forward = 0
    counted = tracker.flops

    def on_phase(phase: str) -> None:
        nonlocal kept, forward, counted
        if phase == "forward":
            kept = tracker.now - resident if kept is None else kept
            forward += tracker.flops - counted
        counted = tracker.flops

    resident = tracker.now
    tracker.reset_peak()
    before = tracker.products, tracker.attention
    step.take(on_phase)
    trained = {id(one) for one in step.trained}
    parameters = {id(one): one for one in step.objective.parameters()}
    return Prediction(
        trained=sum(one.numel() for one in step.trained),
        memory=StepMemory(
            frozen_bytes=tracker.bytes_of(one for key, one in parameters.items() if key not in trained),
            trained_bytes=tracker.bytes_of(step.trained),
            buffer_bytes=tracker.bytes_of(step.objective.buffers()),
            optimizer_bytes=tracker.bytes_of(step.states()),
            input_bytes=tracker.bytes_of((step.images, step.labels)),
            gradient_bytes=sum(one.numel() * one.element_size() for one in step.trained),
            kept_bytes=kept or 0,
            step_peak_bytes=tracker.peak - resident,
        ),
        products=tracker.products - before[0],
        attention=tracker.attention - before[1],
        forward=forward,
        peak_bytes=tracker.peak,
        by_batch=tracker.asked_distinct,
    )
