"""The places of a table: entries, averages over them, and rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from results.best import Mark
from results.facts import Facts
from results.paper_numbers import Number
from results.statistics import Interval, mean_interval
from results.verdict import Verdict, half_width, judge

State = Literal["ok", "partial", "failed", "skipped", "stale", "missing", "paper"]
STATES: tuple[State, ...] = ("ok", "partial", "failed", "skipped", "stale", "missing", "paper")
"""`paper`: only the paper has this place, there is nothing of ours to run."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Ours and the paper's average over the entries that both have; `difference` is ours minus the paper's."""

    n: int
    ours: float
    paper: float

    @property
    def difference(self) -> float:
        """Ours minus the paper's."""
        return self.ours - self.paper


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One place of a table. `values` maps the label of each completed repeat to its metric.

    `std` is the sample standard deviation, None below two values. `coverage` belongs to averages: how many of the
    entries under it are complete, and of how many; `common`, where not all are, what both sides have. `difference` is
    ours minus the paper's, `interval` how far it may be from 0 to be noise (results/verdict.py). A number without basis
    is None, a verdict where the paper has no number.
    """

    state: State
    values: Mapping[str, float]
    mean: float | None
    std: float | None
    n: int
    expected: int
    reasons: tuple[str, ...] = ()
    footnotes: tuple[int, ...] = ()
    running: int = 0
    coverage: tuple[int, int] | None = None
    paper: float | None = None
    difference: float | None = None
    interval: float | None = None
    verdict: Verdict | None = None
    common: Common | None = None
    mark: Mark | None = None

    @property
    def mean_interval(self) -> Interval | None:
        """The 95 % interval of the mean over repeats (Student's t), None below two values."""
        return mean_interval(self.mean, self.std, n=self.n)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table; `entries` and `averages` follow the table's `columns` and `average_columns`."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    averages: tuple[Entry, ...]
    facts: Facts
    footnotes: tuple[int, ...]
    reference: bool


def summarise(
    values: Mapping[str, float],
    *,
    state: State,
    expected: int,
    paper: Number | None,
    reasons: tuple[str, ...] = (),
    footnotes: tuple[int, ...] = (),
    running: int = 0,
    coverage: tuple[int, int] | None = None,
    common: Common | None = None,
) -> Entry:
    """Return the entry of the values of its completed repeats."""
    mean = float(statistics.mean(values.values())) if values else None
    std = statistics.stdev(values.values()) if len(values) > 1 else None
    difference = None if mean is None or paper is None else mean - paper.value
    # A part of the repeats is no result yet; what is there is shown beside the paper's number without a verdict.
    final = state == "ok"
    interval = half_width(std, len(values), rounding=paper.rounding) if paper is not None and final else None
    judged = paper is not None and state != "paper"
    return Entry(
        state=state,
        values=values,
        mean=mean,
        std=std,
        n=len(values),
        expected=expected,
        reasons=reasons,
        footnotes=footnotes,
        running=running,
        coverage=coverage,
        paper=None if paper is None else paper.value,
        difference=difference,
        interval=interval,
        verdict=judge(difference if final else None, interval) if judged else None,
        common=common,
    )


def average(entries: Sequence[Entry], *, papers: Sequence[Number | None], printed: Number | None) -> Entry:
    """Return the average of entries: a hole, with its coverage, unless each of them is complete.

    `papers` are the paper's numbers of the entries; `printed`, its own average, stands in for them where it has none.
    """
    complete = [entry for entry in entries if entry.state == "ok"]
    whole = len(complete) == len(entries)
    repeats = entries[0].values if whole else ()
    there = [number for number in papers if number is not None]
    paper = printed
    if len(there) == len(entries):
        paper = Number(value=_mean([one.value for one in there]), rounding=_mean([one.rounding for one in there]))
    only_paper = all(entry.state == "paper" for entry in entries)
    return summarise(
        {repeat: _mean([entry.values[repeat] for entry in entries]) for repeat in repeats},
        state="paper" if only_paper else "ok" if whole else "missing",
        expected=entries[0].expected,
        paper=paper,
        coverage=(len(complete), len(entries)),
        common=None if whole and paper is not None else _common(entries),
    )


def _common(entries: Sequence[Entry]) -> Common | None:
    both = [
        (entry.mean, entry.paper)
        for entry in entries
        if entry.state == "ok" and entry.mean is not None and entry.paper is not None
    ]
    if not both:
        return None
    return Common(n=len(both), ours=_mean([ours for ours, _ in both]), paper=_mean([paper for _, paper in both]))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
