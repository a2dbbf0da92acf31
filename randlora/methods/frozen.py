"""Baselines that train nothing in the backbone: zero-shot, and a probe on frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from randlora.adapter import Method, Targets
from randlora.inject import Adaptation, freeze


@dataclass(frozen=True, kw_only=True)
class Frozen(Method):
    """Leaves the backbone as it is. Whether a head is trained on top is the recipe's choice."""

    trains_backbone: ClassVar[bool] = False

    def count(self, targets: Targets) -> int:
        """Return 0."""
        return 0

    def apply(self, model: nn.Module, targets: Targets, *, seed: int) -> Adaptation:
        """Freeze the model."""
        freeze(model)
        return Adaptation(model=model, method=self, seed=seed, sites=(), adapters={}, scope={})
