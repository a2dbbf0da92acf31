"""Autocast as it is on a CUDA device, for a step on CPU tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

# ATen/autocast_mode.h, AT_FORALL_FP32: their inputs are cast to float32
_NAMES = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus layer_norm
    native_layer_norm rms_norm group_norm cosine_similarity nll_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss
    binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp interpolate
"""
IN_FLOAT32 = frozenset(_NAMES.split())
# AT_FORALL_FP32_SET_OPT_DTYPE: they return float32, their inputs stay as they are
TO_FLOAT32 = frozenset(("prod", "softmax", "log_softmax", "cumprod", "cumsum", "sum"))
LOW = (torch.bfloat16, torch.float16)


class CudaAutocast(TorchFunctionMode):
    """Adds to ``torch.autocast("cpu")`` what ``torch.autocast("cuda")`` runs in float32: layer norms above all.

    Matrix products, convolutions and attention are lowered by both. Functions that other functions of torch call inside
    themselves, such as the norm within ``normalize``, are not seen.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in IN_FLOAT32 and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_raised, (args, kwargs))
        elif name in TO_FLOAT32 and torch.is_autocast_enabled("cpu") and _is_low(args[0] if args else None):
            kwargs = {"dtype": torch.float32, **kwargs}
        return func(*args, **kwargs)


def _raised(value: Any) -> Any:
    return value.float() if _is_low(value) else value


def _is_low(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in LOW
