"""An update on activations: ``(x right^T) left^T``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from randlora.contraction import unseen

if TYPE_CHECKING:
    from jaxtyping import Float

    from randlora.adapter import TwoFactorAdapter


def update_on_activations(
    x: Float[Tensor, "... in"], adapter: TwoFactorAdapter, dtype: torch.dtype
) -> Float[Tensor, "... out"]:
    """Return what an adapter's update adds to the output of its layer.

    Factors that are large and quickly made (:attr:`randlora.adapter.TwoFactorAdapter.keeps_factors`) are made again in
    the backward pass. They would be as large as the weight, and under activation checkpointing all of a block would be
    there at once. No bit of the result or of a gradient depends on it.

    Args:
        x: input of the layer.
        adapter: of the layer's weight.
        dtype: in which the products run.
    """
    x = x.to(dtype)
    if adapter.keeps_factors or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        left, right = adapter.factors_in(dtype)
        return nn.functional.linear(nn.functional.linear(x, right), left)
    return _Update.apply(x, adapter, dtype, *adapter.parameters())


class _Update(torch.autograd.Function):
    """Remembers the input, the product between the factors and the trained tensors, where a gradient needs them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adapter: TwoFactorAdapter, dtype: torch.dtype, *trained: Tensor) -> Tensor:
        kind = x.device.type
        ctx.adapter, ctx.dtype = adapter, dtype
        ctx.autocast = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
        with torch.enable_grad(), unseen():
            left, right = adapter.factors_in(dtype)
        ctx.trains = left.requires_grad, right.requires_grad
        left, right = left.detach(), right.detach()
        between = nn.functional.linear(x, right)
        ctx.save_for_backward(x if ctx.trains[1] else None, between if ctx.trains[0] else None, *trained)
        return nn.functional.linear(between, left)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, between, *trained = ctx.saved_tensors
        with torch.enable_grad(), unseen(), torch.autocast(grad.device.type, **ctx.autocast):
            left, right = ctx.adapter.factors_in(ctx.dtype)
        toward = grad @ left.detach()
        of_input = toward @ right.detach() if ctx.needs_input_grad[0] else None
        contiguous = left.is_contiguous(), right.is_contiguous()
        edges = [get_gradient_edge(one) for one in (left, right) if one.requires_grad]
        # a factor and its gradient are never there together
        del left, right
        gradients = []
        if ctx.trains[0]:
            gradients.append(_gradient(outer=grad, inner=between, contiguous=contiguous[0]))
        if ctx.trains[1]:
            gradients.append(_gradient(outer=toward, inner=x, contiguous=contiguous[1]))
        needed = [one for one in trained if one.requires_grad]
        found = iter(torch.autograd.grad(edges, needed, gradients, allow_unused=True))
        return (of_input, None, None, *(next(found) if one.requires_grad else None for one in trained))


def _gradient(*, outer: Tensor, inner: Tensor, contiguous: bool) -> Tensor:
    """Return the gradient of a factor in the factor's layout, as autograd does; the last bits depend on it."""
    if contiguous:
        return _rows(outer).T @ _rows(inner)
    return (_rows(inner).T @ _rows(outer)).T


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
