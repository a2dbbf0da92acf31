"""Weights that are packed into integers: the quantised layers of bitsandbytes.

A packed weight cannot be replaced by an adapted one. Its layer runs as it is, and the update is added to its output.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from randlora.adapter import AdapterMethod, Method, TwoFactorMethod

INT8_LEVELS = 127  # an entry is its integer times the scale of its row over this


def is_packed(owner: nn.Module, weight: Tensor) -> bool:
    """Return whether a weight of a layer is packed in a way that :func:`unpacked` reads."""
    if weight.dtype.is_floating_point or not isinstance(owner, nn.Linear):
        return False
    return getattr(weight, "quant_state", None) is not None or _scale(owner, weight) is not None


def sides_of(owner: nn.Linear) -> tuple[int, int]:
    """Return the rows and columns of the matrix of a layer; four-bit numbers are stored in pairs, as one column."""
    if owner.weight.dtype.is_floating_point:
        rows, columns = owner.weight.shape
        return rows, columns
    return owner.out_features, owner.in_features


def unpacked(owner: nn.Module, weight: Tensor) -> Tensor:
    """Return a copy of a packed weight (out x in) in floating point: the matrix that its layer applies."""
    state: Any = getattr(weight, "quant_state", None)
    if state is not None:
        functional = importlib.import_module("bitsandbytes.functional")
        return functional.dequantize_4bit(weight.detach(), state).detach()
    scale = _scale(owner, weight)
    assert scale is not None
    return weight.detach().to(torch.float32) * (scale / INT8_LEVELS)[:, None]


def check_packed(method: Method, name: str) -> None:
    """Raise ValueError, with the reason, where a method needs weights in floating point.

    Args:
        method: the method.
        name: what is packed, in the message.
    """
    instead = "use weights in floating point (backbone.quantize=null)"
    if isinstance(method, TwoFactorMethod) and method.contraction == "weight":
        raise ValueError(
            f"{name} is quantised and cannot be replaced by an adapted weight: set method.contraction=auto, which adds "
            f"the update to the output of the layer, or {instead}"
        )
    if isinstance(method, AdapterMethod) or not method.trains_backbone:
        return
    if method.adds_parameters:
        raise ValueError(
            f"{name} is quantised, and layers of {type(method).__name__} are not tested on that: {instead}"
        )
    raise ValueError(
        f"{name} is quantised, and {type(method).__name__} trains the weights themselves: choose a method with "
        f"adapters, or {instead}"
    )


def _scale(owner: nn.Module, weight: Tensor) -> Tensor | None:
    # the layer takes the scale from its weight at its first forward pass
    found = getattr(weight, "SCB", None)
    return found if found is not None else getattr(getattr(owner, "state", None), "SCB", None)
