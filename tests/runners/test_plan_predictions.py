"""Predicted memory and operations beside real steps: the same step with memory, watched by torch's profiler."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import profiler
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from randlora.backbones.base import ImageBackbone
from randlora.backbones.timm_vision import TimmVision
from randlora.data.batches import BatchPlan
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.shared import Shared
from runners.benchmark.memory import replay
from runners.compose import compose, instantiate_part
from runners.planning.cuda_autocast import CudaAutocast
from runners.planning.predict import PredictionError, predict
from runners.planning.shapes import ImageStep
from runners.planning.step import RunStep
from runners.trainer import train

# Autograd adds gradients that meet in place where they are plain tensors and into new memory where they are fake ones:
# at such a moment a prediction counts one gradient of an activation too many, which is much in a model this small.
LEAST, MOST = -0.001, 0.04
BATCH, CLASSES = 6, 10
METHODS = {
    "dora": ["method=dora"],
    "full_ft": ["method=full_ft"],
    "kradapter": ["method=kradapter"],
    "linear_probe": ["method=linear_probe"],
    "lora": ["method=lora", "method.rank=4"],
    "nola": ["method=nola", "method.rank=2"],
    "randlora": ["method=randlora", "method.rank=8"],
    "vera": ["method=vera", "method.rank=16"],
}
VIT = TimmVision(
    name="small_vit",
    targets=["attn.qkv.weight", "mlp.fc1.weight", "mlp.fc2.weight"],
    scope=["*"],
    model="vit_base_patch14_dinov2",
    pretrained=None,
    checkpoint=None,
    pixels=42,
    mean=None,
    std=None,
    overrides={"depth": 2, "embed_dim": 96, "num_heads": 3},
)


def shape_of(*overrides: str, recipe: str, backbone: ImageBackbone | None = None, **changes: object) -> ImageStep:
    config = compose("config", [*overrides, f"recipe={recipe}", f"recipe.batch_size={BATCH}"])
    parts = {name: instantiate_part(name, config[name]) for name in ("backbone", "method", "recipe")}
    shape = ImageStep(
        backbone=backbone or parts["backbone"],
        method=parts["method"],
        recipe=parts["recipe"],
        classes=CLASSES,
        execution=DEFAULT_EXECUTION,
        recompute_blocks=False,
        device="cpu",
        precision="float32",
    )
    return replace(shape, **changes)  # type: ignore[arg-type]


def real_step(shape: ImageStep) -> RunStep:
    model = shape.backbone.with_random_weights().build(root=Path(), device=torch.device("cpu"), seed=1)
    return RunStep(shape, model)


def storage_bytes(tensors: Iterator[torch.Tensor]) -> int:
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def measured_peak(shape: ImageStep) -> int:
    """Return the most bytes alive in the second step of a real model, what is there before it included."""
    step = real_step(shape)
    step.take(lambda phase: None)
    gc.collect()
    with profiler.profile(profile_memory=True) as profile:
        step.take(lambda phase: None)
    modules = step.objective.modules()
    low = [copy for one in modules if isinstance(one, Shared) for copy in one.low_copies()]
    there = [*step.objective.parameters(), *step.objective.buffers(), *low, *step.states(), *step.batch]
    tokens = [*getattr(step.objective, "train_tokens", []), *getattr(step.objective, "test_tokens", [])]
    return storage_bytes(iter([*there, *tokens])) + replay(profile.kineto_results.events()).peak


def is_close(predicted: int, measured: int) -> bool:
    print(f"predicted {predicted:,} bytes, measured {measured:,}: {predicted / measured - 1:+.3%}")
    return LEAST <= predicted / measured - 1 <= MOST


@pytest.mark.parametrize("method", METHODS)
def test_predicted_peak_is_that_of_a_real_step(method: str) -> None:
    shape = shape_of(*METHODS[method], recipe="linear_head", backbone=VIT)
    assert is_close(predict(shape).peak_bytes, measured_peak(shape))


@pytest.mark.parametrize("method", ["kradapter", "vera"])
def test_predicted_peak_with_rebuilt_weights_is_that_of_a_real_step(method: str) -> None:
    contraction = ["method.contraction=weight"] if method == "vera" else []
    shape = shape_of(*METHODS[method], *contraction, recipe="linear_head", backbone=VIT)
    rebuilt = replace(shape, execution=Execution(adapted_weights="rebuild"))
    assert is_close(predict(rebuilt).peak_bytes, measured_peak(rebuilt))
    assert predict(rebuilt).memory.kept_bytes < predict(shape).memory.kept_bytes


@pytest.mark.parametrize(("method", "negatives"), [("randlora", "classes"), ("lora", "batch")])
def test_predicted_peak_of_both_towers_is_that_of_a_real_step(method: str, negatives: str) -> None:
    task = f"recipe.task.negatives={negatives}"
    shape = shape_of("backbone=micro_clip", *METHODS[method], task, recipe="micro_clip")
    predicted = predict(shape)
    assert is_close(predicted.peak_bytes, measured_peak(shape))
    assert predicted.by_batch == (negatives == "batch")


@pytest.mark.parametrize("method", ["lora", "randlora"])
def test_predicted_peak_in_bfloat16_and_micro_batches_is_that_of_a_real_step(method: str) -> None:
    micro = "recipe.micro_batch_size=3"
    shape = shape_of(*METHODS[method], micro, recipe="linear_head", backbone=VIT, precision="bfloat16")
    assert predict(shape).peak_bytes == pytest.approx(measured_peak(shape), rel=MOST)


def test_compact_bases_are_predicted_as_they_are_kept() -> None:
    compact = Execution(bases="compact")
    shape = shape_of("method=randlora_ternary_6", "method.rank=8", recipe="linear_head", backbone=VIT)
    small = replace(shape, execution=compact)
    assert predict(small).peak_bytes == pytest.approx(measured_peak(small), rel=MOST)
    assert predict(small).memory.buffer_bytes < predict(shape).memory.buffer_bytes


class ConstantFeed:
    """The same batch at every step, as a run's feed gives it."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, plan: BatchPlan, *, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(start, stop):
            yield self.images, self.labels


class NoCheckpoints:
    """A checkpointer that keeps nothing."""

    def restore(self, parameters: object) -> None:
        return None

    def due(self, step: int) -> bool:
        return False


@pytest.mark.parametrize("method", ["full_ft", "randlora"])
def test_predicted_peak_is_that_of_the_training_loop(method: str) -> None:
    from accelerate import Accelerator

    shape = shape_of(*METHODS[method], "recipe.max_steps=3", recipe="linear_head", backbone=VIT)
    step = real_step(shape)
    step.optimizers.all.clear()  # the loop makes its own
    gc.collect()
    with profiler.profile(profile_memory=True) as profile:
        train(
            step.objective,
            backbone=step.adaptation.trainable(),
            recipe=shape.recipe,
            feed=ConstantFeed(*step.batch),  # type: ignore[arg-type]
            accelerator=Accelerator(cpu=True),
            seed=1,
            checkpointer=NoCheckpoints(),  # type: ignore[arg-type]
            on_step=lambda done, total, values: None,
            stop=lambda: False,
        )
    before = storage_bytes(iter([*step.objective.parameters(), *step.objective.buffers(), *step.batch]))
    found = before + replay(profile.kineto_results.events()).peak
    assert is_close(predict(shape).peak_bytes, found)


def test_operations_are_those_of_a_real_step_and_of_attention_by_hand() -> None:
    shape = shape_of(*METHODS["randlora"], recipe="linear_head", backbone=VIT)
    step, predicted = real_step(shape), predict(shape)
    with FlopCounterMode(display=False) as counter:
        step.take(lambda phase: None)
    assert predicted.products == counter.get_total_flops()
    assert predicted.flops == predicted.products + predicted.attention
    tokens, width, blocks = (42 // 14) ** 2 + 1, 96, 2
    forward = blocks * BATCH * 2 * 2 * tokens**2 * width
    # the backward pass computes the scores once more and takes four products
    assert predicted.attention == forward + blocks * BATCH * 5 * 2 * tokens**2 * width
    assert forward < predicted.forward < predicted.flops


def test_nothing_of_a_prediction_takes_memory_or_changes_the_random_stream() -> None:
    shape = shape_of("backbone=clip_vit_b32", "method=full_ft", recipe="clip", precision="bfloat16", device="cuda")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    status = Path("/proc/self/statm")
    resident = int(status.read_text().split()[1]) if status.exists() else 0
    predicted = predict(shape)
    grown = (int(status.read_text().split()[1]) - resident) * 4096 if status.exists() else 0
    assert predicted.trained == 151_277_313
    assert predicted.memory.peak_bytes > 4 * 4 * predicted.trained > 20 * grown
    assert torch.equal(torch.get_rng_state(), before)


def test_a_gpu_keeps_layer_norms_in_float32() -> None:
    x, norm = torch.randn(2, 4, dtype=torch.bfloat16), nn.LayerNorm(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16
        with CudaAutocast():
            assert norm(x).dtype == torch.float32
            assert x.softmax(-1).dtype == torch.float32
            assert F.linear(x, torch.randn(3, 4)).dtype == torch.bfloat16
    with CudaAutocast():
        assert x.softmax(-1).dtype == torch.bfloat16
    shape = shape_of(*METHODS["lora"], recipe="linear_head", backbone=VIT, precision="bfloat16")
    on_gpu = predict(replace(shape, device="cuda"))
    assert on_gpu.memory.kept_bytes > predict(shape).memory.kept_bytes
    assert on_gpu.peak_bytes % 512 == 0


def test_a_step_that_cannot_be_predicted_says_why() -> None:
    shape = shape_of("method=lora", "method.rank=97", recipe="linear_head", backbone=VIT)
    with pytest.raises(PredictionError, match=r"LoRA: .*rank 97 does not fit site 'blocks\.0\.attn\.qkv\.weight'"):
        predict(shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["full_ft", "lora", "randlora_vision"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predicted_peak_is_what_cuda_allocates(method: str, precision: str) -> None:
    shape = shape_of(
        "backbone=clip_vit_b32_vision",
        f"method={method}",
        "recipe.batch_size=128",
        recipe="clip_vision",
        device="cuda",
        precision=precision,
    )
    model = shape.backbone.with_random_weights().build(root=Path(), device=torch.device("cuda"), seed=1)
    with torch.device("cuda"):
        step = RunStep(shape, model)
    step.take(lambda phase: None)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step.take(lambda phase: None)
    found = torch.cuda.max_memory_allocated()
    assert math.isclose(predict(shape).peak_bytes, found, rel_tol=0.05)
