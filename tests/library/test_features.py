"""What updates take, counted from shapes, against hand counts and live layers."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Mapping

import pytest
import torch
from cost_cases import IN, LAYER, OUT, REBUILD, ROWS, WORK, load_method, of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from randlora.adapter import Site, Targets
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.features import features_of
from randlora.work import Work


def test_features_of_lora_are_those_counted_by_hand() -> None:
    rank = 3
    weight = of(load_method("lora", rank=rank, contraction="weight"))
    # forward, and the gradients of two factors; then that of the weight
    assert weight.update_operations == 3 * 2 * rank * OUT * IN
    assert weight.weight_operations == 2 * ROWS * OUT * IN
    # scale * B is kept; A is a parameter
    assert weight.factor_bytes == 4 * OUT * rank
    assert weight.weight_bytes == 4 * OUT * IN
    assert weight.input_bytes == 4 * ROWS * IN
    assert (weight.trained, weight.tensors, weight.sites) == (rank * (OUT + IN), 2, 1)
    assert weight.gradient_bytes == 4 * weight.trained
    assert weight.state_bytes == 3 * 4 * weight.trained + 4 * 2
    assert weight.shared_bytes == 0
    active = of(load_method("lora", rank=rank, contraction="activation"))
    # forward and back through both factors, and a gradient of each
    assert active.update_operations == 2 * ROWS * rank * 3 * (OUT + IN)
    assert (active.weight_operations, active.weight_bytes) == (0, 0)
    assert active.factor_bytes == 4 * (OUT * rank + ROWS * rank)
    assert active.input_bytes == 4 * ROWS * IN


def test_a_frozen_right_factor_keeps_no_input() -> None:
    vera = of(load_method("vera", rank=5, contraction="activation"))
    assert vera.input_bytes == 0
    assert vera.shared_bytes == 4 * 5 * (OUT + IN)


def test_shared_bases_are_counted_once() -> None:
    both = dataclasses.replace(WORK, groups=tuple(dataclasses.replace(one, sites=7) for one in WORK.groups))
    one, seven = of(load_method("randlora", rank=4)), of(load_method("randlora", rank=4), both)
    assert seven.trained == 7 * one.trained
    assert seven.weight_operations == 7 * one.weight_operations
    assert seven.shared_bytes == one.shared_bytes == 4 * (OUT * 16 + 4 * 16)


def test_full_fine_tuning_and_the_frozen_model() -> None:
    full = of(load_method("full_ft"))
    assert full.weight_operations == 2 * ROWS * OUT * IN
    assert (full.trained, full.tensors) == (OUT * IN + OUT, 2)
    # its parameters are the model's own: AdamW's state alone comes on top
    assert full.state_bytes == 2 * 4 * full.trained + 4 * 2
    assert full.update_operations == full.weight_bytes == 0
    assert set(dataclasses.asdict(of(load_method("zero_shot"))).values()) == {0}


def test_what_cannot_be_known_has_no_features() -> None:
    assert features_of(load_method("peft", peft_type="LORA", options={"r": 2}), WORK) is None
    assert features_of(load_method("randlora"), WORK, Execution(bases="compact")) is None
    assert features_of(load_method("randlora"), WORK, Execution(accumulate=True)) is None


REAL = {
    "lora, weight": ("lora", {"rank": 3, "contraction": "weight"}, DEFAULT_EXECUTION),
    "lora, activation": ("lora", {"rank": 3, "contraction": "activation"}, DEFAULT_EXECUTION),
    "vera, activation": ("vera", {"rank": 5, "contraction": "activation"}, DEFAULT_EXECUTION),
    "nola": ("nola", {"rank": 1, "bases": 8, "contraction": "activation"}, DEFAULT_EXECUTION),
    "randlora, weight": ("randlora", {"rank": 4, "contraction": "weight"}, DEFAULT_EXECUTION),
    "randlora, auto": ("randlora", {"rank": 4}, DEFAULT_EXECUTION),
    "randlora, rebuilt": ("randlora", {"rank": 4, "contraction": "weight"}, REBUILD),
    "dora": ("dora", {"rank": 3}, DEFAULT_EXECUTION),
    "kradapter": ("kradapter", {}, DEFAULT_EXECUTION),
}


@pytest.mark.parametrize(("name", "fields", "execution"), REAL.values(), ids=list(REAL))
@pytest.mark.parametrize("rows", [ROWS, 4])
def test_features_are_those_of_the_live_layer(
    name: str, fields: Mapping[str, object], execution: Execution, rows: int
) -> None:
    method = load_method(name, **fields)
    features = of(method, Work.of(LAYER, {"0.weight": rows}, "float32"), execution)
    model = nn.Sequential(nn.Linear(IN, OUT))
    frozen, _ = step(model.requires_grad_(False), rows)
    adaptation = method.apply(model, LAYER, seed=1, execution=execution)
    flops, kept = step(model, rows)
    # the factors of RandLoRA take small products of their own, which no formula of the contraction counts
    own = 0 if name != "randlora" else factor_flops(adaptation.adapters["0.weight"])
    assert flops - frozen == features.update_operations + features.weight_operations + own
    assert features.trained == adaptation.n_trainable()
    if execution.adapted_weights == "keep":  # where weights are rebuilt, hooks of others would stop it
        assert kept == features.input_bytes + features.weight_bytes + features.factor_bytes


def step(model: nn.Module, rows: int) -> tuple[int, int]:
    """Return the operations of a step, and the bytes it keeps beyond parameters, buffers and frozen weights."""
    x = torch.randn(rows, IN, generator=torch.Generator().manual_seed(1)).requires_grad_()
    kept: dict[int, Tensor] = {}
    known = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(x)
    size = sum(one.untyped_storage().nbytes() for address, one in kept.items() if address not in known)
    with FlopCounterMode(display=False) as counter:
        model(x).backward(torch.ones_like(output))
    return counter.get_total_flops(), size


def factor_flops(adapter: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        left, right = adapter.factors()
        torch.autograd.backward([one for one in (left, right) if one.requires_grad], [torch.ones_like(right)])
    return counter.get_total_flops()


def test_a_large_language_model_takes_no_memory() -> None:
    shapes = {"q": (4096, 4096), "k": (1024, 4096), "up": (14336, 4096), "down": (4096, 14336)}
    sites = tuple(Site(name=name, out_features=out, in_features=in_) for name, (out, in_) in shapes.items())
    work = Work.of(Targets(sites=sites), dict.fromkeys(shapes, 4096), "bfloat16_weights")
    work = dataclasses.replace(work, groups=tuple(dataclasses.replace(one, sites=32) for one in work.groups))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    features = of(load_method("randlora_llm", rank=10, contraction="weight"), work)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert features.shared_bytes > 230e6
    assert features.weight_bytes == 2 * 32 * sum(out * in_ for out, in_ in shapes.values())
    assert grown < 50e6
