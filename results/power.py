"""How many seeds it takes to resolve a gap."""

from __future__ import annotations

import math

from results.statistics import SIGNIFICANCE

POWER = 0.8
SHOWN_UP_TO = 1000
"""Above it the number is told as ">1,000": nobody runs it, and its digits mean nothing."""


def seeds_needed(gap: float | None, std: float | None, *, paired: bool, pooled: float = 1.0) -> int | None:
    """Return the seeds per method with which Student's two-sided test at 5 % finds a gap in 80 of 100 cases.

    Args:
        gap: the difference of the methods' means, taken as true.
        std: the sample standard deviation over seeds: of the differences where the seeds are paired, else the pooled
            one of both methods, sqrt((s1^2 + s2^2) / 2).
        paired: whether both methods have the same seeds.
        pooled: how many standard deviations of equal size `std` is made of, one for each dataset: each seed adds as
            many degrees of freedom.

    The smallest n of at least 2 whose power, from the noncentral t distribution, reaches 80 %; above ``SHOWN_UP_TO``
    the n of the normal approximation. None where the gap is 0, or where there is no spread to tell it from.
    """
    if gap is None or std is None or gap == 0:
        return None
    if std == 0:
        return 2
    effect = abs(gap) / std
    if _power(effect, SHOWN_UP_TO, paired=paired, pooled=pooled) < POWER:
        return _normal(effect, paired=paired)
    low, high = 1, SHOWN_UP_TO  # a single seed has no power
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle, paired=paired, pooled=pooled) >= POWER else (middle, high)
    return high


def seeds_text(seeds: int | None) -> str:
    """Return a number of seeds for people: 12, or >1,000."""
    if seeds is None:
        return ""
    return f">{SHOWN_UP_TO:,}" if seeds > SHOWN_UP_TO else str(seeds)


def _power(effect: float, n: int, *, paired: bool, pooled: float) -> float:
    from scipy import stats

    freedom = pooled * (n - 1 if paired else 2 * n - 2)
    shift = effect * math.sqrt(n if paired else n / 2)
    quantile = stats.t.isf(SIGNIFICANCE / 2, freedom)
    # shifts of a hundred and more are beyond the distribution's own arithmetic, and certain to be found
    return 1.0 if shift > 30 + quantile else float(stats.nct.sf(quantile, freedom, shift))


def _normal(effect: float, *, paired: bool) -> int:
    from scipy import stats

    together = float(stats.norm.isf(SIGNIFICANCE / 2) + stats.norm.isf(1 - POWER))
    return max(SHOWN_UP_TO + 1, math.ceil((1 if paired else 2) * (together / effect) ** 2))
