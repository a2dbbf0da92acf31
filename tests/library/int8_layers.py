"""A linear layer with a weight in 8 bits as bitsandbytes keeps it: integers, and the scale of each row beside them."""

from __future__ import annotations

import torch
from tiny_models import Tiny, targets_of
from torch import Tensor, nn
from torch.nn import functional as F

from randlora.adapter import Targets

PACKED = ("tall.weight", "wide.weight", "square.weight")


class Int8Linear(nn.Linear):
    """Applies the matrix that the integers stand for."""

    @classmethod
    def of(cls, layer: nn.Linear) -> Int8Linear:
        made = cls(layer.in_features, layer.out_features)
        scale = layer.weight.detach().abs().amax(dim=1)
        integers = (layer.weight.detach() / scale[:, None] * 127).round().to(torch.int8)
        made.weight = nn.Parameter(integers, requires_grad=False)
        made.weight.SCB = scale
        made.bias = layer.bias
        return made

    def matrix(self) -> Tensor:
        return self.weight.to(torch.float32) * (self.weight.SCB / 127)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix(), self.bias)


def int8_tiny() -> Tiny:
    """Return the tiny model with three of its layers in 8 bits."""
    model = Tiny().eval()
    for name in PACKED:
        layer = name.removesuffix(".weight")
        setattr(model, layer, Int8Linear.of(getattr(model, layer)))
    return model


def in_floating_point() -> Tiny:
    """Return the tiny model with the numbers that those layers apply."""
    model, packed = Tiny().eval(), int8_tiny()
    for name in PACKED:
        layer = name.removesuffix(".weight")
        getattr(model, layer).weight = nn.Parameter(packed.get_submodule(layer).matrix().detach())
    return model


def packed_targets(model: nn.Module) -> Targets:
    return targets_of(model, PACKED)
