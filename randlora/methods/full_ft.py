"""Full fine-tuning: the reference that trains every weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from randlora.adapter import Method, Targets
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import Adaptation, freeze
from randlora.packed import check_packed


@dataclass(frozen=True, kw_only=True)
class FullFineTuning(Method):
    """Trains every parameter in the backbone's fine-tuning scope, biases, norms and temperature included."""

    def count(self, targets: Targets) -> int:
        """Return the number of elements in the scope."""
        return sum(targets.parameters.values())

    def apply(
        self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
    ) -> Adaptation:
        """Freeze everything outside the scope.

        Raises:
            AttributeError: if the model lacks a parameter of the scope.
            ValueError: naming it, if a weight of the scope is quantised.
        """
        trained = {name: model.get_parameter(name) for name in targets.parameters}
        for name, parameter in trained.items():
            if not parameter.dtype.is_floating_point:
                check_packed(self, f"'{name}'")
        freeze(model)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        return Adaptation(model=model, method=self, seed=seed, sites=(), adapters={}, scope=trained)
