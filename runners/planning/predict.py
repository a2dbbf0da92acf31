"""Memory and operations of a training step, from a step on tensors without memory: no weights, no data, no GPU."""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from randlora.adapter import AdapterMethod
from results.bench_record import StepMemory
from runners.planning.sections import Sections, deeper_peak
from runners.planning.step import RunStep
from runners.planning.tracker import StepTracker

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from randlora.backbones.base import Backbone
    from runners.planning.shapes import StepShape

# units of torch's allocators, in bytes: the caching allocator of a CUDA device rounds up
BLOCKS = {"cpu": 1, "cuda": 512}
# depths of the shallow models that stand for a deep one: with a block that is neither the first nor the last
LEAST_DEPTH = 3


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
        peaks: the most bytes alive in each section of the step, everything included (see
            :class:`runners.planning.sections.Sections`).
        by_batch: the step depends on the number of distinct classes in a micro-batch and not on that of all classes.
    """

    trained: int
    memory: StepMemory
    products: int
    attention: int
    forward: int
    peaks: Mapping[Hashable, int]
    by_batch: bool

    @property
    def flops(self) -> int:
        """Operations of one step."""
        return self.products + self.attention

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at any moment of the step, everything included."""
        return max(self.peaks.values())

    def number(self, name: str) -> float:
        """Return a number by its name, of the step or of its memory."""
        return float(getattr(self if hasattr(self, name) else self.memory, name))


_known: dict[str, Prediction] = {}


def predict(shape: StepShape) -> Prediction:
    """Return what a step of this shape takes; it is worked out once per process.

    A deep model of like blocks is worked out from two shallow ones, which comes to the same bytes and operations.

    Raises:
        PredictionError: if the step cannot run without values, or does not fit the model.
    """
    if shape.key not in _known:
        depth = shape.like_blocks
        if depth is None or depth <= 2 * LEAST_DEPTH + 1:
            _known[shape.key] = predict_whole(shape)
        else:
            low, high = (predict_whole(shape.with_blocks(LEAST_DEPTH + more)) for more in (0, 1))
            _known[shape.key] = _deeper(low, high, depth=depth)
    return _known[shape.key]


def predict_whole(shape: StepShape) -> Prediction:
    """Return what a step takes, worked out on all blocks of the model; errors as of :func:`predict`."""
    gc.collect()
    gc.freeze()  # what is loaded already need not be gone through while the step runs
    try:
        three_valued = _three_valued(shape) if shape.execution.bases == "compact" else ()
        tracker = StepTracker(block=BLOCKS[shape.device], most_distinct=shape.distinct, equal=three_valued)
        skeleton = skeleton_of(shape.backbone)
        with FakeTensorMode(), tracker:
            return _watch(RunStep(shape.blank(), fake_copy(skeleton)), tracker)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise PredictionError(f"{type(shape.method).__name__}: {type(error).__name__}: {first}") from error
    finally:
        gc.unfreeze()


@cache
def skeleton_of(backbone: Backbone) -> nn.Module:
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


def _deeper(low: Prediction, high: Prediction, *, depth: int) -> Prediction:
    def at(small: int, large: int) -> int:
        return small + (large - small) * (depth - LEAST_DEPTH)

    peak = deeper_peak(low.peaks, high.peaks, least=LEAST_DEPTH, depth=depth)
    names = [one.name for one in fields(StepMemory) if one.name != "step_peak_bytes"]
    parts = {name: at(getattr(low.memory, name), getattr(high.memory, name)) for name in names}
    start = at(*(one.peak_bytes - one.memory.step_peak_bytes for one in (low, high)))
    return Prediction(
        trained=at(low.trained, high.trained),
        memory=StepMemory(**parts, step_peak_bytes=peak - start),
        products=at(low.products, high.products),
        attention=at(low.attention, high.attention),
        forward=at(low.forward, high.forward),
        peaks={None: peak},
        by_batch=high.by_batch,
    )


def _watch(step: RunStep, tracker: StepTracker) -> Prediction:
    """Take a step: the first two micro-batches, and the last where it is smaller; what is between is as the second."""
    sizes = step.part_sizes()
    ragged = sizes[-1] != sizes[0]
    taken = [number for number in range(len(sizes)) if number < 2 or (ragged and number == len(sizes) - 1)]
    left_out = len(sizes) - len(taken)
    resident = tracker.now
    tracker.reset_peak()
    kept: list[int] = []
    counts: list[tuple[int, int, int]] = []
    before = tracker.products, tracker.attention
    forward = 0

    def on_phase(phase: str) -> None:
        nonlocal before, forward
        if phase == "forward":
            kept.append(tracker.now - resident)
            forward = tracker.products + tracker.attention - sum(before)
        elif phase == "part":
            counts.append((tracker.products - before[0], tracker.attention - before[1], forward))
            before = tracker.products, tracker.attention
        sections.on_phase(phase)

    with Sections(step.objective, tracker) as sections:
        step.take(on_phase, parts=lambda number: number in taken)
    # what follows the last part, such as the one way of accumulated gradients to the factors, happens once
    counts.append((tracker.products - before[0], tracker.attention - before[1], 0))
    counts += counts[1:2] * left_out
    products, attention, forward = (sum(numbers) for numbers in zip(*counts, strict=True))
    trained = {id(one) for one in step.trained}
    parameters = {id(one): one for one in step.objective.parameters()}
    return Prediction(
        trained=sum(one.numel() for one in step.trained),
        memory=StepMemory(
            frozen_bytes=tracker.bytes_of(one for key, one in parameters.items() if key not in trained),
            trained_bytes=tracker.bytes_of(step.trained),
            buffer_bytes=tracker.bytes_of(step.objective.buffers()),
            optimizer_bytes=tracker.bytes_of(step.states()),
            input_bytes=tracker.bytes_of(step.batch),
            gradient_bytes=sum(one.numel() * one.element_size() for one in step.trained),
            kept_bytes=kept[0],
            step_peak_bytes=tracker.peak - resident,
        ),
        products=products,
        attention=attention,
        forward=forward,
        peaks=dict(tracker.peaks),
        by_batch=tracker.asked_distinct,
    )
