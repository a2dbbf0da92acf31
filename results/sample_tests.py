"""Two methods on the same test samples: McNemar's exact test, and what it becomes with several seeds.

Seeds answer the same test samples, so they are no further samples. The unit is a sample: its *swing* is the number of
seeds in which the first method alone is right, minus that of the second alone. Under the null hypothesis that the
methods are exchangeable, the swing of each sample is as likely as its opposite. With one seed the swings are -1, 0 and
1, and counting their signs is McNemar's exact test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from results.outcomes import NoOutcomesError, Outcomes
from results.statistics import DRAWN_FLIPS, HAIR, LEVEL, Interval


@dataclass(frozen=True, kw_only=True)
class Swings:
    """The swings of two methods on one dataset: how many samples have each, over so many seeds."""

    counts: Mapping[int, int]
    seeds: int

    @property
    def samples(self) -> int:
        """The number of test samples."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """The difference of the methods' shares of right samples, averaged over seeds."""
        return sum(swing * count for swing, count in self.counts.items()) / (self.samples * self.seeds)

    @property
    def variance_of_mean(self) -> float:
        """The variance of the mean over other samples."""
        squares = sum(count * (swing / self.seeds) ** 2 for swing, count in self.counts.items())
        return (squares / self.samples - self.mean**2) / max(self.samples - 1, 1)

    @property
    def first_alone(self) -> int:
        """Samples that the first method gets right in more seeds than the second."""
        return sum(count for swing, count in self.counts.items() if swing > 0)

    @property
    def second_alone(self) -> int:
        """Samples that the second method gets right in more seeds than the first."""
        return sum(count for swing, count in self.counts.items() if swing < 0)


def swings_of(pairs: Sequence[tuple[Outcomes, Outcomes]]) -> Swings:
    """Return the swings of two methods from their outcomes, a pair per seed; NoOutcomesError for other samples."""
    samples = {outcomes.samples for pair in pairs for outcomes in pair}
    if len(samples) > 1:
        raise NoOutcomesError("the predictions are of other test samples")
    total: Any = sum(first.right.astype(int) - second.right.astype(int) for first, second in pairs)
    return Swings(counts=dict(Counter(total.tolist())), seeds=len(pairs))


def swap_p(strata: Sequence[Swings]) -> float:
    """Return the two-sided p of the average difference over datasets, each counting the same.

    Each sample's swing is flipped with probability one half. Exact where all datasets have the same number of samples
    and seeds, as for a single one; otherwise from flips that are drawn, the same in every process.
    """
    if len({(each.samples, each.seeds) for each in strata}) == 1:
        counts: Counter[int] = Counter()
        for each in strata:
            counts.update(each.counts)
        return _exact(counts)
    return _drawn(strata)


def samples_interval(strata: Sequence[Swings]) -> Interval:
    """Return the 95 % interval of the average difference over other test samples, by the normal approximation."""
    from scipy import stats

    mean = math.fsum(each.mean for each in strata) / len(strata)
    std = math.sqrt(math.fsum(each.variance_of_mean for each in strata)) / len(strata)
    half = float(stats.norm.isf((1 - LEVEL) / 2)) * std
    return Interval(low=mean - half, high=mean + half)


def _exact(counts: Mapping[int, int]) -> float:
    from scipy import signal, stats

    sizes = Counter[int]()
    for swing, count in counts.items():
        sizes[abs(swing)] += count
    del sizes[0]
    total = sum(swing * count for swing, count in counts.items())
    if len(sizes) <= 1:  # one seed, or none that differ: a binomial, to the last digit
        ahead = sum(count for swing, count in counts.items() if swing > 0)
        return float(stats.binomtest(ahead, sizes.total(), 0.5).pvalue) if sizes else 1.0
    import numpy

    # the sum of the swings, as twice the sum of those that are ahead minus all
    chances = numpy.ones(1)
    for size, count in sizes.items():
        spaced = numpy.zeros(size * count + 1)
        spaced[::size] = stats.binom.pmf(numpy.arange(count + 1), count, 0.5)
        chances = signal.convolve(chances, spaced)
    sums = 2 * numpy.arange(len(chances)) - (len(chances) - 1)
    return float(min(1.0, max(0.0, chances[abs(sums) >= abs(total)].sum())))


def _drawn(strata: Sequence[Swings]) -> float:
    import numpy

    generator = numpy.random.default_rng(0)
    sums = numpy.zeros(DRAWN_FLIPS)
    for each in strata:
        sizes = Counter[int]()
        for swing, count in each.counts.items():
            sizes[abs(swing)] += count
        for size, count in sorted(sizes.items()):
            ahead = generator.binomial(count, 0.5, DRAWN_FLIPS)
            sums += size * (2 * ahead - count) / (each.samples * each.seeds)
    observed = abs(math.fsum(each.mean for each in strata)) * (1 - HAIR)
    return float((1 + numpy.count_nonzero(abs(sums) >= observed)) / (1 + DRAWN_FLIPS))
