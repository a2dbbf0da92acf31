"""Is the paper's number within the noise of ours?

The paper's number is one run (its image tables state no spread), ours the mean of n seeds with sample standard
deviation s. If both come from one normal distribution, their difference lies within

    t(0.975, n - 1) * s * sqrt(1 + 1/n)

in 95 of 100 cases (the prediction interval of one further run); t is the quantile of Student's distribution. The
rounding of the printed number is added. With one seed there is no s, and no verdict.
"""

from __future__ import annotations

import math
from typing import Literal

Verdict = Literal["reproduced", "outside", "no spread", "not run"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "outside", "no spread", "not run")
LEVEL = 0.95


def half_width(std: float | None, n: int, *, rounding: float) -> float | None:
    """Return how far the paper's number may be from our mean, None without a spread of at least two seeds."""
    if std is None or n < 2:
        return None
    return student_quantile(n - 1) * std * math.sqrt(1 + 1 / n) + rounding


def judge(difference: float | None, interval: float | None) -> Verdict:
    """Return the verdict on a difference (None: not run) within a half width (None: no spread)."""
    if difference is None:
        return "not run"
    if interval is None:
        return "no spread"
    # a hair more, because a difference of decimal numbers is not exact
    return "reproduced" if abs(difference) <= interval + 1e-12 else "outside"


def student_quantile(freedom: int, *, level: float = LEVEL) -> float:
    """Return the t with P(|T| <= t) = level for Student's distribution with 1 or more degrees of freedom."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Return P(|T| <= t): the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power - 1) / power
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
