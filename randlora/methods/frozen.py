"""Baselines that train nothing in the backbone: zero-shot, and a probe on frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from randlora.adapter import Method, Targets
from randlora.checks import check_choice
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import Adaptation, freeze


@dataclass(frozen=True, kw_only=True)
class Frozen(Method):
    """Leaves the backbone as it is.

    Attributes:
        head: ``text``, classes come from their texts (zero-shot); ``linear``, a head is trained on the features
            (probe).
    """

    trains_backbone: ClassVar[bool] = False
    head: Literal["text", "linear"]

    def __post_init__(self) -> None:
        check_choice(self, "head", ("text", "linear"))

    def check_task(self, *, has_head: bool) -> None:
        """Raise ValueError unless the task's head is the one this baseline stands for."""
        if has_head != (self.head == "linear"):
            need = (
                "a recipe that trains a head, such as recipe=linear_head" if not has_head else "a recipe without a head"
            )
            raise ValueError(f"a frozen backbone with head: {self.head} needs {need}")

    def count(self, targets: Targets) -> int:
        """Return 0."""
        return 0

    def apply(
        self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
    ) -> Adaptation:
        """Freeze the model."""
        freeze(model)
        return Adaptation(model=model, method=self, seed=seed, sites=(), adapters={}, scope={})
