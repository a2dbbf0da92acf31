"""The scale in front of an update, as an explicit rule."""

from __future__ import annotations

from math import sqrt
from typing import Literal

ScaleRule = Literal["constant", "over_rank", "over_sqrt_rank", "over_sqrt_bases"]
SCALE_RULES: tuple[ScaleRule, ...] = ("constant", "over_rank", "over_sqrt_rank", "over_sqrt_bases")


def scale_of(alpha: float, rule: ScaleRule, *, rank: int, bases: int = 1) -> float:
    """Return the scale of an update.

    ``constant`` is alpha, ``over_rank`` alpha / r (LoRA; RandLoRA on vision with alpha = 10, paper Table 8),
    ``over_sqrt_rank`` alpha / sqrt(r) (rsLoRA), ``over_sqrt_bases`` alpha / sqrt(n) (RandLoRA on language, paper
    Table 9).
    """
    divisors: dict[ScaleRule, float] = {
        "constant": 1.0,
        "over_rank": float(rank),
        "over_sqrt_rank": sqrt(rank),
        "over_sqrt_bases": sqrt(bases),
    }
    return alpha / divisors[rule]
