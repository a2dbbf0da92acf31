"""DoRA beside peft's, on the same layers with the same numbers: outputs and gradients, unmerged and merged."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from configs import METHODS
from published import assert_close
from torch import Tensor, nn

from randlora.inject import Adaptation, inject
from randlora.sites import find_sites

SHAPES = {"tall": (20, 12), "wide": (12, 20), "square": (12, 12)}
RANK = 3


@pytest.fixture(scope="module", autouse=True)
def peft_importable() -> None:
    from randlora.backbones.torchvision_guard import import_torchvision

    import_torchvision()


def drawn(*shape: int, seed: int, std: float = 1.0) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers() -> nn.ModuleDict:
    model = nn.ModuleDict()
    for seed, (name, (rows, columns)) in enumerate(SHAPES.items()):
        layer = nn.Linear(columns, rows).double()
        layer.load_state_dict({"weight": drawn(rows, columns, seed=seed), "bias": drawn(rows, seed=10 + seed)})
        model[name] = layer
    return model


def theirs(model: nn.ModuleDict, trained: dict[str, dict[str, Tensor]] | None) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, use_dora=True, target_modules=list(SHAPES))
    adapted = get_peft_model(model, config).double()
    with torch.no_grad():
        for name, tensors in (trained or {}).items():
            for ours, parameter in peft_tensors(adapted, name).items():
                parameter.copy_(tensors[ours])
    return adapted


def peft_tensors(adapted: nn.Module, name: str) -> dict[str, nn.Parameter]:
    layer = adapted.base_model.model[name]
    return {
        "a": layer.lora_A["default"].weight,
        "b": layer.lora_B["default"].weight,
        "magnitude": layer.lora_magnitude_vector["default"].weight,
    }


def ours(model: nn.ModuleDict, trained: dict[str, dict[str, Tensor]] | None) -> Adaptation:
    sites = find_sites(model, [f"{name}.weight" for name in SHAPES])
    adaptation = inject(model, method=dataclasses.replace(METHODS["dora"], rank=RANK), sites=sites, seed=0)
    with torch.no_grad():
        for name, tensors in (trained or {}).items():
            for key, parameter in adaptation.adapters[f"{name}.weight"].named_parameters():
                parameter.copy_(tensors[key])
    return adaptation


def numbers() -> dict[str, dict[str, Tensor]]:
    return {
        name: {
            "a": drawn(RANK, columns, seed=20 + seed, std=0.3),
            "b": drawn(rows, RANK, seed=30 + seed, std=0.3),
            "magnitude": 1 + drawn(rows, seed=40 + seed, std=0.5),
        }
        for seed, (name, (rows, columns)) in enumerate(SHAPES.items())
    }


def passes(forward: Iterator[tuple[nn.Module, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    for seed, (layer, columns) in enumerate(forward):
        x = drawn(7, columns, seed=50 + seed).requires_grad_()
        y = layer(x)
        if y.requires_grad:
            y.backward(drawn(*y.shape, seed=60 + seed))
        yield y.detach(), x.grad


def test_starts_with_the_magnitudes_of_peft() -> None:
    model = layers()
    reference, adaptation = theirs(copy.deepcopy(model), None), ours(model, None)
    for name in SHAPES:
        magnitude = adaptation.adapters[f"{name}.weight"].get_parameter("magnitude")
        # peft takes the norms before the adapter is float64
        assert torch.allclose(magnitude, peft_tensors(reference, name)["magnitude"], atol=1e-6)
        assert_close(magnitude, layers()[name].weight.norm(dim=1), name)


def test_outputs_and_gradients_are_those_of_peft() -> None:
    model = layers()
    trained = numbers()
    reference, adaptation = theirs(copy.deepcopy(model), trained), ours(model, trained)
    columns = {name: shape[1] for name, shape in SHAPES.items()}
    expected = list(passes((reference.base_model.model[name], columns[name]) for name in SHAPES))
    found = list(passes((model[name], columns[name]) for name in SHAPES))
    for name, (y, grad_x), (their_y, their_grad_x) in zip(SHAPES, found, expected, strict=True):
        assert_close(y, their_y, f"{name} y")
        assert_close(grad_x, their_grad_x, f"{name} grad_x")
        for key, parameter in adaptation.adapters[f"{name}.weight"].named_parameters():
            theirs_grad = peft_tensors(reference, name)[key].grad
            assert theirs_grad.abs().max() > 1e-2
            assert_close(parameter.grad, theirs_grad, f"{name} {key}")


def test_merged_weights_are_those_of_peft() -> None:
    model = layers()
    trained = numbers()
    merged = theirs(copy.deepcopy(model), trained).merge_and_unload()
    ours(model, trained).merge()
    for name in SHAPES:
        assert (model[name].weight - layers()[name].weight).abs().max() > 0.1
        assert_close(model[name].weight, merged[name].weight, name)


def test_a_differentiated_norm_gives_other_gradients_of_the_direction_alone() -> None:
    gradients = []
    for through_the_norm in (False, True):
        model = layers()
        adaptation = ours(model, numbers())
        for adapter in adaptation.adapters.values():
            adapter.norm_gradient = through_the_norm
        list(passes((model[name], shape[1]) for name, shape in SHAPES.items()))
        gradients.append({key: parameter.grad for key, parameter in adaptation.trainable().items()})
    for key, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][key]) == key.endswith(":magnitude")
