"""Contract 4: merging changes no output and leaves nothing of the adapter behind."""

from __future__ import annotations

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from tiny_models import Tiny, adapt, fitted, inputs, perturb, targets_of
from torch import nn

from randlora.sites import find_sites


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", METHODS)
def test_merged_output_is_the_adapted_output(name: str, training: bool) -> None:
    adaptation = adapt(METHODS[name], dtype=torch.float64)
    perturb(adaptation)
    adaptation.model.train(training)
    x = inputs(dtype=torch.float64)
    with torch.no_grad():
        base, before = Tiny().double()(x), adaptation.model(x)
        after = adaptation.merge()(x)
    assert (after - before).abs().max() < 1e-12
    assert adaptation.method.trains_backbone == bool((after - base).abs().max() > 1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_merging_leaves_a_plain_model(name: str) -> None:
    adaptation = adapt(METHODS[name])
    perturb(adaptation)
    model, base = adaptation.merge(), Tiny()
    assert {name: type(module) for name, module in model.named_modules()} == {
        name: type(module) for name, module in base.named_modules()
    }
    for module in model.modules():
        assert not hasattr(module, "parametrizations")
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called
    assert not dict(model.named_buffers())
    state = model.state_dict()
    assert set(state) == set(base.state_dict())
    assert all(tensor.is_contiguous() for tensor in state.values())
    base.load_state_dict(state)
    # torch picks its kernels by whether weights need gradients
    base.requires_grad_(False)
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(base.eval()(inputs()), model(inputs()))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_merged_model_is_frozen_and_can_be_adapted_again(name: str) -> None:
    adaptation = adapt(METHODS[name], dtype=torch.float64)
    perturb(adaptation)
    model = adaptation.merge()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert adaptation.n_trainable() == 0
    with torch.no_grad():
        once = model(inputs(dtype=torch.float64))
        again = adaptation.method.apply(model, targets_of(model), seed=9)
        perturb(again)
        twice = model(inputs(dtype=torch.float64))
        assert (again.merge()(inputs(dtype=torch.float64)) - twice).abs().max() < 1e-12
    assert (twice - once).abs().max() > 1e-3


class TiedHead(nn.Module):
    """Words in, words out, with one matrix for both, as in most language models."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 12)
        self.out = nn.Linear(12, 30, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.words(ids)))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_merging_a_tied_weight_leaves_its_other_user_alone(name: str) -> None:
    model = TiedHead().double()
    words = model.words.weight.detach().clone()
    method = fitted(ADAPTER_METHODS[name])
    adaptation = method.apply(model, type(targets_of(Tiny()))(sites=find_sites(model, ["out.weight"])), seed=1)
    perturb(adaptation)
    ids = torch.arange(30)
    with torch.no_grad():
        before = model(ids)
        assert (adaptation.merge()(ids) - before).abs().max() < 1e-12
    assert torch.equal(model.words.weight, words)
