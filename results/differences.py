"""Differences between the methods of a table: each pair at each place, and which of them are told apart.

The place of a comparison is a block of rows and a column that averages stand in; a table without averages has one place
per column. docs/STATISTICS.md explains the tests.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from results.comparing import Comparer, Comparison, Question, Told
from results.entry import Row
from results.outcomes import OutcomeReader
from results.places import Labels, place_runs
from results.record import Record
from results.rollup import Table, roll_up
from results.statistics import SIGNIFICANCE, holm, smallest_sign_flip_p
from results.table import Planned, TableSpec, check_known


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All comparisons of a table. `over` is the question that interval, corrected p and verdict answer.

    `family` is how many tests the correction is for: all comparisons that have one. `left_out` are the reference rows
    of the table, which pairs leave out.
    """

    table: Table
    reference: str | None
    over: Question
    asked: bool
    family: int
    left_out: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def datasets(self) -> int:
        """How many columns a comparison is an average of."""
        return max((each.of for each in self.comparisons), default=0)

    @property
    def seeds(self) -> int:
        """The most seeds that a comparison has."""
        return max((each.seeds for each in self.comparisons), default=0)

    @property
    def reasons(self) -> Mapping[str, int]:
        """Why comparisons have no test over samples, and how many."""
        return Counter(each.no_samples for each in self.comparisons if each.no_samples is not None)


def compare_rows(
    spec: TableSpec,
    planned: Sequence[Planned],
    records: Mapping[str, Record],
    *,
    outcomes: OutcomeReader,
    reference: str | None = None,
    over: Question | None = None,
) -> Differences:
    """Return the comparisons of all pairs of rows of each block, or of every row with the one labelled `reference`.

    Pairs leave out the reference rows of the table. Without `over`, the verdict is over datasets where there are enough
    for one, else over seeds. Raises TableError for a reference that is no row.
    """
    table = roll_up(spec, planned, records)
    ours = _ours(table)
    if reference is not None:
        check_known("reference: there is no row", reference, list(dict.fromkeys(row.labels[-1] for row in ours)))
    runs = place_runs(spec, planned, records, frozenset())
    comparer = Comparer(spec, table.columns, runs, outcomes)
    pairs = list(_pairs(ours, reference))
    found = [comparer.compare(one, other, place) for one, other in pairs for place in _groups(table)]
    found.sort(key=lambda each: _position(spec, each.block))
    chosen = over or _question(spec, found)
    corrected = holm([each.p[chosen] for each in found])
    left_out = () if reference is not None else tuple(dict.fromkeys(row.labels[-1] for row in ours if row.reference))
    return Differences(
        table=table,
        reference=reference,
        over=chosen,
        asked=over is not None,
        family=sum(p is not None for p in corrected),
        left_out=left_out,
        comparisons=tuple(
            replace(each, p_corrected=p, verdict=_verdict(spec, each, p))
            for each, p in zip(found, corrected, strict=True)
        ),
    )


def _ours(table: Table) -> list[Row]:
    return [row for row in table.rows if any(entry.state != "paper" for entry in row.entries)]


def _pairs(rows: Sequence[Row], reference: str | None) -> Iterator[tuple[Row, Row]]:
    for _, group in itertools.groupby(rows, key=lambda row: row.labels[:-1]):
        block = list(group)
        if reference is None:
            yield from itertools.combinations([row for row in block if not row.reference], 2)
        else:
            others = [row for row in block if row.labels[-1] != reference]
            yield from ((row, one) for one in block if one.labels[-1] == reference for row in others)


def _groups(table: Table) -> list[tuple[Labels, list[int]]]:
    """The columns that are averaged together, by the labels that tell the averages apart."""
    spec = table.spec
    if not spec.average:
        return [(column, [index]) for index, column in enumerate(table.columns)]
    groups: dict[Labels, list[int]] = {}
    for index, column in enumerate(table.columns):
        kept = tuple(label for axis, label in zip(spec.columns, column, strict=True) if axis not in spec.average)
        groups.setdefault(kept, []).append(index)
    return list(groups.items())


def _position(spec: TableSpec, block: Labels) -> tuple[int, ...]:
    return tuple(list(spec.axes[axis]).index(label) for axis, label in zip(spec.rows, block, strict=False))


def _question(spec: TableSpec, found: Sequence[Comparison]) -> Question:
    """The question with a chance of a verdict: which one depends on what the table asks for, not on what came out."""
    datasets = max((each.of for each in found), default=0)
    possible = smallest_sign_flip_p(datasets) * len(found) < SIGNIFICANCE
    return "datasets" if possible or len(spec.points(spec.repeat)) < 2 else "seeds"


def _verdict(spec: TableSpec, found: Comparison, corrected: float | None) -> Told | None:
    if corrected is None or found.difference is None:
        return None
    if corrected >= SIGNIFICANCE:
        return "not told apart"
    lower_is_better = spec.metric.startswith("cost/")
    return "better" if (found.difference > 0) != lower_is_better else "worse"
