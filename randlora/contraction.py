"""Whether an update is cheaper on the weight or on the activations."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from randlora.adapter import Site, TwoFactorAdapter


@dataclass(frozen=True)
class Widths:
    """What the cost of an update depends on.

    Attributes:
        inner: *k*, the width between the factors.
        left_trains: whether gradients reach the left factor (out x k).
        right_trains: whether they reach the right factor (k x in).
    """

    inner: int
    left_trains: bool
    right_trains: bool

    @classmethod
    def of(cls, adapter: TwoFactorAdapter) -> Self:
        """Return the widths of an adapter, found by making its factors once."""
        with torch.enable_grad(), unseen():
            left, right = adapter.factors()
        return cls(left.shape[1], left.requires_grad, right.requires_grad)


def runs_on_activations(site: Site, widths: Widths, *, tokens: int, training: bool) -> bool:
    """Return whether adding ``(x right^T) left^T`` takes fewer multiply-adds than forming the adapted weight.

    Args:
        site: the adapted matrix.
        widths: of its adapter.
        tokens: number of input rows of this call, *T*.
        training: whether gradients will be taken.
    """
    on_activations, on_weight = multiply_adds(site, widths, tokens=tokens, training=training)
    return on_activations < on_weight


def multiply_adds(site: Site, widths: Widths, *, tokens: int, training: bool) -> tuple[int, int]:
    """Return the multiply-adds of an update in activation form and in weight form, beyond the frozen layer.

    For T tokens, activation form takes ``T k (in + out)`` forward, the same backward for the input's gradient, and
    ``T k out`` or ``T k in`` for the gradient of a trained left or right factor. Weight form takes ``k in out``
    forward, and backward ``T in out`` for the weight's gradient and ``k in out`` for each trained factor.
    """
    sides = site.in_features + site.out_features
    area = site.in_features * site.out_features
    on_activations = tokens * widths.inner * sides
    on_weight = widths.inner * area
    if training:
        trained_sides = widths.left_trains * site.out_features + widths.right_trains * site.in_features
        on_activations += tokens * widths.inner * (sides + trained_sides)
        on_weight += tokens * area + (widths.left_trains + widths.right_trains) * widths.inner * area
    return on_activations, on_weight


def unseen() -> AbstractContextManager[object]:
    """Hide what is saved from hooks around: checkpointing counts it, and a second forward would save less."""
    if torch.compiler.is_compiling():
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
