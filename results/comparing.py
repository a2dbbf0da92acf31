"""One comparison: two rows of a table at one place, tested over datasets, seeds and test samples.

A comparison with a hole on either side has no numbers but its coverage: a hole is never averaged.
docs/STATISTICS.md explains the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from results.entry import Entry, Row
from results.outcomes import NoOutcomesError, OutcomeReader
from results.places import Labels, Place, PlacedRun
from results.power import seeds_needed
from results.sample_tests import Swings, samples_interval, swap_p, swings_of
from results.statistics import Interval, SeedTest, describe, is_zero, sign_flip_p, stratified_t
from results.table import TableSpec

Question = Literal["datasets", "seeds", "samples"]
QUESTIONS: tuple[Question, ...] = ("datasets", "seeds", "samples")
Told = Literal["better", "worse", "not told apart"]
RELATIVE = "the numbers are shares of those of another run"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One column under a comparison: means of both, and McNemar's test on its samples where there are predictions."""

    column: Labels
    first: float
    second: float
    samples: int | None = None
    first_alone: int | None = None
    second_alone: int | None = None
    p_samples: float | None = None

    @property
    def difference(self) -> float:
        """The first minus the second."""
        return self.first - self.second


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two rows at one place. `difference` is the first's mean minus the second's; `p` and `intervals` are by question.

    `complete` of `of` columns are complete on both sides; where not all are, there are no numbers. `no_samples` says
    why there is no test over samples. `p_corrected` and `verdict` are of the question of the whole Differences.
    """

    block: Labels
    column: Labels
    first: str
    second: str
    complete: int
    of: int
    parts: tuple[Part, ...] = ()
    first_mean: float | None = None
    second_mean: float | None = None
    difference: float | None = None
    seeds: int = 0
    seeds_std: float | None = None
    p: Mapping[Question, float | None]
    intervals: Mapping[Question, Interval | None]
    no_samples: str | None = None
    p_corrected: float | None = None
    verdict: Told | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Comparer:
    """Compares rows of one table, whose columns and runs it knows."""

    spec: TableSpec
    columns: Sequence[Labels]
    runs: Mapping[Place, Sequence[PlacedRun]]
    outcomes: OutcomeReader

    def compare(self, one: Row, other: Row, place: tuple[Labels, Sequence[int]]) -> Comparison:
        """Compare two rows over the columns with these indices."""
        column, indices = place
        pairs = [(one.entries[index], other.entries[index]) for index in indices]
        complete = [pair for pair in pairs if all(entry.state == "ok" for entry in pair)]
        found = Comparison(
            block=one.labels[:-1],
            column=column,
            first=one.labels[-1],
            second=other.labels[-1],
            complete=len(complete),
            of=len(pairs),
            p=dict.fromkeys(QUESTIONS),
            intervals=dict.fromkeys(QUESTIONS),
        )
        return found if len(complete) < len(pairs) else self._filled(found, one, other, pairs, indices)

    def _filled(
        self,
        found: Comparison,
        one: Row,
        other: Row,
        pairs: Sequence[tuple[Entry, Entry]],
        indices: Sequence[int],
    ) -> Comparison:
        firsts, seconds = ([_mean(pair[side]) for pair in pairs] for side in (0, 1))
        gap = math.fsum(firsts) / len(firsts) - math.fsum(seconds) / len(seconds)
        gap = 0.0 if is_zero(gap, [*firsts, *seconds]) else gap
        by_dataset = [first - second for first, second in zip(firsts, seconds, strict=True)]
        by_seed = _by_seed(self.spec, pairs)
        of_seeds = stratified_t(by_seed)
        swings = [self._swings(one, other, index) for index in indices]
        reasons = [each for each in swings if isinstance(each, str)]
        strata = [each for each in swings if isinstance(each, Swings)]
        return replace(
            found,
            parts=tuple(
                _part(self.columns[index], first, second, each)
                for index, first, second, each in zip(indices, firsts, seconds, swings, strict=True)
            ),
            first_mean=math.fsum(firsts) / len(firsts),
            second_mean=math.fsum(seconds) / len(seconds),
            difference=gap,
            seeds=len(by_seed[0]),
            seeds_std=None if of_seeds is None else of_seeds.std,
            p={
                "datasets": sign_flip_p(by_dataset) if len(by_dataset) > 1 else None,
                "seeds": None if of_seeds is None else of_seeds.p,
                "samples": None if reasons else swap_p(strata),
            },
            intervals={
                "datasets": describe(by_dataset).interval,
                "seeds": None if of_seeds is None else of_seeds.interval,
                "samples": None if reasons else samples_interval(strata),
            },
            no_samples=reasons[0] if reasons else None,
            seeds_needed=None if of_seeds is None else _needed(gap, of_seeds, seeds=len(by_seed[0])),
        )

    def _swings(self, one: Row, other: Row, index: int) -> Swings | str:
        """The swings at one column, or why there are none."""
        if self.spec.relative:
            return RELATIVE
        column = self.columns[index]
        metric = self.spec.metric_at(dict(zip(self.spec.rows + self.spec.columns, (*one.labels, *column), strict=True)))
        sides = [{run.repeat: run.record for run in self.runs[row.labels, column]} for row in (one, other)]
        seeds = _shared([dict.fromkeys(side, 0.0) for side in sides], self.spec)
        pairs = []
        try:
            for seed in seeds:
                # a method without seeds is the same run at every seed
                records = [side.get(seed) or next(iter(side.values())) for side in sides]
                read = [self.outcomes.read(record, metric) for record in records if record is not None]
                pairs.append((read[0], read[1]))
            return swings_of(pairs)
        except NoOutcomesError as error:
            return str(error)


def _part(column: Labels, first: float, second: float, swings: Swings | str) -> Part:
    if isinstance(swings, str):
        return Part(column=column, first=first, second=second)
    return Part(
        column=column,
        first=first,
        second=second,
        samples=swings.samples,
        first_alone=swings.first_alone,
        second_alone=swings.second_alone,
        p_samples=swap_p([swings]),
    )


def _needed(gap: float, test: SeedTest, *, seeds: int) -> int | None:
    # each further seed adds a degree of freedom for every dataset whose spread counts
    return seeds_needed(gap, test.std, paired=True, pooled=max(1.0, test.freedom / (seeds - 1)))


def _by_seed(spec: TableSpec, pairs: Sequence[tuple[Entry, Entry]]) -> list[list[float]]:
    """For each pair the differences of the seeds that all entries share; a single one where nothing has seeds."""
    seeds = _shared([entry.values for pair in pairs for entry in pair], spec)
    return [[_at(first.values, seed) - _at(second.values, seed) for seed in seeds] for first, second in pairs]


def _shared(values: Sequence[Mapping[str, float]], spec: TableSpec) -> list[str]:
    """The seeds that all have. One that is a single run at all seeds of the table has each of them."""
    varying = [each for each in values if len(each) > 1] or list(values[:1])
    seeds = [" / ".join(point) for point in spec.points(spec.repeat)]
    return [seed for seed in seeds if all(seed in each for each in varying)]


def _at(values: Mapping[str, float], seed: str) -> float:
    return next(iter(values.values())) if len(values) == 1 else values[seed]


def _mean(entry: Entry) -> float:
    if entry.mean is None:
        raise ValueError("an entry that is ok has a mean")
    return entry.mean
