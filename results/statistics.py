"""Spread, intervals and paired tests: what docs/STATISTICS.md explains.

Plain functions of numbers. What has no basis (a spread of one value, a test of no difference) is None, never 0 or 1.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from results.verdict import LEVEL, student_quantile

SIGNIFICANCE = 1 - LEVEL
EXACT_FLIPS = 30
"""The most differences whose flips of sign are all counted, which takes 2^15 sums for each half."""
DRAWN_FLIPS = 99_999
HAIR = 1e-12  # relative; sums of decimal numbers are not exact


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Description:
    """Values as a reader wants them: their number, mean, sample standard deviation and the interval of the mean.

    The last two are None below two values, the mean where there is none.
    """

    n: int
    mean: float | None
    std: float | None
    interval: Interval | None


def describe(values: Sequence[float]) -> Description:
    """Return number, mean, sample standard deviation and 95 % interval of values."""
    mean = float(statistics.mean(values)) if values else None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Description(n=len(values), mean=mean, std=std, interval=mean_interval(mean, std, n=len(values)))


def mean_interval(mean: float | None, std: float | None, *, n: int) -> Interval | None:
    """Return mean ± t(0.975, n - 1) std / sqrt(n), the 95 % interval of a mean of n values; None below two."""
    if mean is None or std is None or n < 2:
        return None
    half = student_quantile(n - 1) * std / math.sqrt(n)
    return Interval(low=mean - half, high=mean + half)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the exact two-sided p of a mean difference, over all 2^n flips of sign; None without differences.

    Null hypothesis: each difference is symmetric about 0, as it is where the two methods are exchangeable. The p is the
    share of flips whose sum is at least as far from 0 as the observed one; equal sums count. Above ``EXACT_FLIPS``
    differences ``DRAWN_FLIPS`` flips are drawn, the same in every process.
    """
    if not differences:
        return None
    sizes = [abs(each) for each in differences]
    # a hair less, so that flips with the very same sum count whatever order it is added in
    observed = abs(math.fsum(differences)) - HAIR * math.fsum(sizes)
    if observed <= 0:
        return 1.0
    if len(differences) > EXACT_FLIPS:
        return _drawn_p(sizes, observed)
    left, right = _signed_sums(sizes[::2]), sorted(_signed_sums(sizes[1::2]))
    # the sums are symmetric: as many lie below -observed as above observed
    beyond = sum(len(right) - bisect.bisect_left(right, observed - one) for one in left)
    return min(1.0, 2 * beyond / 2 ** len(sizes))


def smallest_sign_flip_p(n: int) -> float:
    """Return the smallest p that :func:`sign_flip_p` can give n differences: 2 / 2^n, 1 below two."""
    return min(1.0, 2.0 ** (1 - n))


@dataclass(frozen=True, kw_only=True)
class SeedTest:
    """Student's test of a mean difference over seeds. `std` is the standard deviation of the average of one seed.

    `freedom` are its degrees of freedom. `p` and `interval` are None where nothing varies but the mean is not 0.
    """

    std: float
    freedom: float
    p: float | None
    interval: Interval | None


def stratified_t(strata: Sequence[Sequence[float]]) -> SeedTest | None:
    """Return the test of the unweighted mean over datasets of differences by seed; None below two seeds on any.

    Args:
        strata: for each dataset the differences of two methods with the same seed.

    Each of D datasets with n_k seeds adds v_k = s_k^2 / n_k / D^2 to the variance of the mean, and the degrees of
    freedom are Welch's and Satterthwaite's, (sum v_k)^2 / sum(v_k^2 / (n_k - 1)). With one dataset this is the paired
    t-test.
    """
    if not strata or any(len(each) < 2 for each in strata):
        return None
    spreads = [statistics.stdev(each) for each in strata]
    spreads = [0.0 if is_zero(std, each) else std for std, each in zip(spreads, strata, strict=True)]
    mean = math.fsum(statistics.mean(each) for each in strata) / len(strata)
    std = math.hypot(*spreads) / len(strata)
    if std == 0:
        same = mean == 0
        return SeedTest(
            std=0.0, freedom=0.0, p=1.0 if same else None, interval=Interval(low=0, high=0) if same else None
        )
    from scipy import stats

    parts = [(std / len(strata)) ** 2 / len(each) for std, each in zip(spreads, strata, strict=True)]
    variance = math.fsum(parts)
    freedom = variance**2 / math.fsum(part**2 / (len(each) - 1) for part, each in zip(parts, strata, strict=True))
    error = math.sqrt(variance)
    half = float(stats.t.isf(SIGNIFICANCE / 2, freedom)) * error
    return SeedTest(
        std=std,
        freedom=freedom,
        p=float(2 * stats.t.sf(abs(mean) / error, freedom)),
        interval=Interval(low=mean - half, high=mean + half),
    )


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return p values corrected by Holm's step-down, which bounds the chance of any false verdict in the family.

    The i-th smallest of m is multiplied by m - i + 1, and none gets smaller than one before it. A None is no member of
    the family and stays None.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p))
        corrected[index] = largest
    return tuple(corrected)


def is_zero(value: float, beside: Sequence[float]) -> bool:
    """Return whether a number is 0 up to the rounding of the numbers that it was computed from."""
    return abs(value) <= HAIR * max((abs(each) for each in beside), default=0.0)


def _drawn_p(sizes: Sequence[float], observed: float) -> float:
    """Return a valid p from flips that are drawn: the observed flip counts as one of them."""
    import numpy

    generator = numpy.random.default_rng(0)
    sums = numpy.zeros(DRAWN_FLIPS)
    for size in sizes:
        sums += size * (2 * generator.integers(0, 2, DRAWN_FLIPS) - 1)
    return float((1 + numpy.count_nonzero(abs(sums) >= observed)) / (1 + DRAWN_FLIPS))


def _signed_sums(sizes: Sequence[float]) -> list[float]:
    """Return the sums of all choices of signs."""
    sums = [0.0]
    for size in sizes:
        sums = list(itertools.chain((one - size for one in sums), (one + size for one in sums)))
    return sums
