"""Dropout on the inputs of adapters: the base sees the whole input, the update what is left of it."""

from __future__ import annotations

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from tiny_models import LINEAR_SITES, adapt, changes, fitted, perturb, targets_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from randlora.inject import Adaptation, owner_of

SITE_LAYERS = ("tall.weight", "wide.weight", "conv.weight")  # Linear both ways, and a transposed one


def dropping(name: str, probability: float = 0.5) -> Adaptation:
    adaptation = adapt(ADAPTER_METHODS[name], patterns=LINEAR_SITES, dtype=torch.float64)
    perturb(adaptation)
    adaptation.drop_inputs(probability)
    return adaptation


def layer_of(adaptation: Adaptation, site: str) -> nn.Module:
    return owner_of(adaptation.model, site)[0]


def inputs_of(adaptation: Adaptation, site: str) -> Tensor:
    width = next(one.in_features for one in adaptation.sites if one.name == site)
    return torch.randn(3, 7, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
@pytest.mark.parametrize("site", SITE_LAYERS)
def test_the_update_sees_what_is_left_of_the_input(name: str, site: str) -> None:
    adaptation = dropping(name)
    layer, x, change = layer_of(adaptation, site), inputs_of(adaptation, site), changes(adaptation)[site]
    layer.eval()
    whole = layer(x)
    layer.train()
    torch.manual_seed(9)
    found = layer(x)
    torch.manual_seed(9)
    left = F.dropout(x, 0.5)
    assert 0 < int((left == 0).sum()) < left.numel()
    expected = whole + (left - x) @ change.T
    assert torch.allclose(found, expected, atol=1e-10)
    assert not torch.allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_evaluation_and_a_dropout_of_zero_change_nothing(name: str) -> None:
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = adapt(ADAPTER_METHODS[name], patterns=LINEAR_SITES, dtype=torch.float64)
    perturb(plain)
    expected = plain.model(x)
    assert torch.equal(dropping(name).model.eval()(x), expected)
    assert torch.equal(dropping(name, 0.0).model.train()(x), plain.model.train()(x))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_every_trained_tensor_has_a_gradient(name: str) -> None:
    adaptation = dropping(name, 0.3)
    x = torch.randn(4, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(1)
    adaptation.model.train()(x).square().sum().backward()
    assert not [key for key, one in adaptation.trainable().items() if one.grad is None or not one.grad.count_nonzero()]


def test_a_checkpointed_block_drops_the_same_inputs_twice() -> None:
    gradients = []
    for run in (lambda model, x: model(x), lambda model, x: checkpoint(model, x, use_reentrant=False)):
        adaptation = dropping("randlora")
        x = torch.randn(4, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        torch.manual_seed(1)
        run(adaptation.model.train(), x).square().sum().backward()
        gradients.append([parameter.grad for parameter in adaptation.trainable().values()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_merging_forgets_the_dropout() -> None:
    adaptation = dropping("lora")
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = adaptation.model.eval()(x)
    assert torch.allclose(adaptation.merge().train()(x), expected, atol=1e-10)


def test_attention_that_reads_its_weight_itself_is_refused() -> None:
    adaptation = adapt(ADAPTER_METHODS["lora"])
    with pytest.raises(ValueError, match=r"'attention.in_proj_weight'.*set the dropout to 0"):
        adaptation.drop_inputs(0.1)
    adaptation.drop_inputs(0.0)


def test_layers_of_peft_have_a_dropout_of_their_own() -> None:
    adaptation = adapt(METHODS["peft"])
    with pytest.raises(ValueError, match=r"method.options=\{lora_dropout: 0.05\}"):
        adaptation.drop_inputs(0.1)
    adaptation.drop_inputs(0.0)


def test_methods_without_adapters_have_nothing_to_drop() -> None:
    model = adapt(ADAPTER_METHODS["lora"]).merge()
    adaptation = fitted(METHODS["full_ft"]).apply(model, targets_of(model), seed=1)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    expected = adaptation.model.train()(x)
    adaptation.drop_inputs(0.5)
    assert torch.equal(adaptation.model.train()(x), expected)
