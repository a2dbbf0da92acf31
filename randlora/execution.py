"""How adapters run: what costs time or memory and changes no value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from randlora.checks import check_choice

AdaptedWeights = Literal["keep", "rebuild"]
BasisStorage = Literal["full", "compact"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Choices between time and memory; results are the same bit for bit.

    Attributes:
        adapted_weights: between forward and backward pass, ``keep`` each adapted weight, or ``rebuild`` it from its
            factors when the backward pass needs it.
        bases: ``full`` keeps frozen bases in float32, ``compact`` in the smallest type that holds them exactly (a
            ternary basis as int8).
    """

    adapted_weights: AdaptedWeights = "keep"
    bases: BasisStorage = "full"

    def __post_init__(self) -> None:
        check_choice(self, "adapted_weights", ("keep", "rebuild"))
        check_choice(self, "bases", ("full", "compact"))


DEFAULT_EXECUTION = Execution()
