"""Activation form with factors made again in the backward pass: bit for bit what keeping them gives, in less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from configs import ADAPTER_METHODS
from tiny_models import fitted
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from randlora.activation_form import update_on_activations
from randlora.adapter import AdapterMethod, Site, TwoFactorAdapter, TwoFactorMethod
from randlora.methods import randlora_adapter

Update = Callable[[Tensor, TwoFactorAdapter, torch.dtype], Tensor]
SHAPES = {"tall": (24, 12), "wide": (12, 24), "square": (16, 16)}
TWO_FACTOR = {name: fitted(one) for name, one in ADAPTER_METHODS.items() if isinstance(one, TwoFactorMethod)}
MADE_AGAIN = ("randlora", "vera")


def adapter_of(method: AdapterMethod, out_features: int, in_features: int) -> TwoFactorAdapter:
    site = Site(name="layer", out_features=out_features, in_features=in_features)
    adapter = method.adapt(site, method.shared([site], 1), torch.Generator().manual_seed(1))
    assert isinstance(adapter, TwoFactorAdapter)
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return adapter


def kept(x: Tensor, adapter: TwoFactorAdapter, dtype: torch.dtype) -> Tensor:
    left, right = adapter.factors_in(dtype)
    return nn.functional.linear(nn.functional.linear(x.to(dtype), right), left)


def in_checkpoint(x: Tensor, adapter: TwoFactorAdapter, dtype: torch.dtype) -> Tensor:
    return checkpoint(update_on_activations, x, adapter, dtype, use_reentrant=False)


def results(update: Update, adapter: TwoFactorAdapter, in_features: int, *, lowered: bool) -> list[Tensor]:
    """Return the output and all gradients."""
    adapter.zero_grad()
    x = torch.randn(3, 5, in_features, generator=torch.Generator().manual_seed(3)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
        output = update(x, adapter, torch.bfloat16 if lowered else torch.float32)
    output.float().square().sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in adapter.parameters())]
    assert all(one is not None and one.abs().sum() > 0 for one in gradients)
    return [output.detach(), *(one for one in gradients if one is not None)]


@pytest.mark.parametrize("lowered", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TWO_FACTOR)
@pytest.mark.parametrize("update", [update_on_activations, in_checkpoint], ids=["plain", "checkpoint"])
def test_no_bit_depends_on_keeping_factors(name: str, shape: str, update: Update, lowered: bool) -> None:
    adapter = adapter_of(TWO_FACTOR[name], *SHAPES[shape])
    expected = results(kept, adapter, SHAPES[shape][1], lowered=lowered)
    found = results(update, adapter, SHAPES[shape][1], lowered=lowered)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("some", [1, 30, 10**9])
@pytest.mark.parametrize("name", ["randlora", "randlora_peft"])
def test_gradients_do_not_depend_on_how_many_bases_are_weighed_at_a_time(
    name: str, some: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of(TWO_FACTOR[name], 24, 12)
    expected = results(update_on_activations, adapter, 12, lowered=False)
    monkeypatch.setattr(randlora_adapter, "AT_ONCE", some)
    for ours, theirs in zip(results(update_on_activations, adapter, 12, lowered=False), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def saved(update: Update, adapter: TwoFactorAdapter, rows: int, in_features: int) -> int:
    """Return the bytes that autograd keeps beyond the input, parameters and frozen tensors."""
    x = torch.randn(rows, in_features, requires_grad=True)
    known = {one.untyped_storage().data_ptr() for one in (x, *adapter.parameters(), *adapter.buffers())}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = update(x, adapter, torch.float32)
    assert output.requires_grad
    return sum(size for address, size in found.items() if address not in known)


@pytest.mark.parametrize("name", MADE_AGAIN)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_kept_does_not_grow_with_the_factors(name: str, shape: str) -> None:
    adapter = adapter_of(TWO_FACTOR[name], *SHAPES[shape])
    rows, in_features = 2, SHAPES[shape][1]
    left, right = adapter.factors()
    trained = left if left.requires_grad else right
    between = rows * left.shape[1] * 4 if left.requires_grad else 0
    assert saved(update_on_activations, adapter, rows, in_features) == between
    assert saved(kept, adapter, rows, in_features) >= trained.numel() * 4


def test_a_change_between_forward_and_backward_pass_is_an_error() -> None:
    adapter = adapter_of(TWO_FACTOR["randlora"], 16, 16)
    output = update_on_activations(torch.randn(2, 16), adapter, torch.float32)
    with torch.no_grad():
        next(adapter.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_frozen_input_needs_no_gradient() -> None:
    adapter = adapter_of(TWO_FACTOR["vera"], 12, 24)
    x = torch.randn(4, 24)
    update_on_activations(x, adapter, torch.float32).sum().backward()
    assert x.grad is None
    assert all(parameter.grad is not None for parameter in adapter.parameters())
