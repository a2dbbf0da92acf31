"""How adapters run: what costs time or memory and changes nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from randlora.checks import check_choice, check_flag

AdaptedWeights = Literal["keep", "rebuild"]
BasisStorage = Literal["full", "compact"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Choices between time and memory. The first two change no bit of a result; the third, the order of a sum.

    Attributes:
        adapted_weights: between forward and backward pass ``keep`` each adapted weight, or ``rebuild`` it from its
            factors when the backward pass needs it: one product of the factors more per site, and no copy of a weight.
            Under activation checkpointing they are kept, while their checkpointed block lives.
        bases: ``full`` keeps frozen bases in floating point; ``compact`` keeps those of three values (ternary) as int8
            and expands a slice at each use.
        accumulate: within one :meth:`randlora.inject.Adaptation.accumulating`, form each adapted weight once for all
            micro-batches and take its gradient to the factors once, at the price of one gradient per weight.
    """

    adapted_weights: AdaptedWeights = "keep"
    bases: BasisStorage = "full"
    accumulate: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "adapted_weights", ("keep", "rebuild"))
        check_choice(self, "bases", ("full", "compact"))
        check_flag(self, "accumulate")


DEFAULT_EXECUTION = Execution()
