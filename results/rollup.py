"""The roll-up: records and a table file in, a table out. A pure function that never averages over a hole.

Each run is ok, failed, skipped, stale or missing. An entry gathers the repeats (seeds) behind one place of the table;
an average is a hole, with its coverage, unless every entry under it is complete.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from results.best import Mark, mark_best
from results.facts import Facts, gather_facts
from results.footnotes import Footnotes
from results.record import Key, Record
from results.table import Planned, TableError, TableSpec

State = Literal["ok", "partial", "failed", "skipped", "stale", "missing"]
STATES: tuple[State, ...] = ("ok", "partial", "failed", "skipped", "stale", "missing")
_Labels = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One place of a table. `values` maps the label of each completed repeat to its metric.

    `std` is the sample standard deviation, None below two values. `coverage` belongs to averages: how many of the
    entries under it are complete, and of how many. `difference` is ours minus the paper's. A number without basis is
    None.
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
    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table; `entries` and `averages` follow the table's `columns` and `average_columns`."""

    labels: _Labels
    entries: tuple[Entry, ...]
    averages: tuple[Entry, ...]
    facts: Facts
    footnotes: tuple[int, ...]
    reference: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """A rolled-up table: `completed` of `total` runs are ok, `counts` has every state, `running` are under way.

    Footnotes are numbered from 1 in the order of `footnotes`.
    """

    spec: TableSpec
    columns: tuple[_Labels, ...]
    average_columns: tuple[_Labels, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]
    counts: Mapping[State, int]
    running: int

    @property
    def completed(self) -> int:
        """The number of runs that are ok."""
        return self.counts["ok"]

    @property
    def total(self) -> int:
        """The number of runs the table asks for."""
        return sum(self.counts.values())

    def entry(self, row: Sequence[str], column: Sequence[str]) -> Entry:
        """Return the entry at these row and column labels; KeyError if the table has no such place."""
        for each in self.rows:
            if each.labels == tuple(row) and tuple(column) in self.columns:
                return each.entries[self.columns.index(tuple(column))]
        raise KeyError((tuple(row), tuple(column)))


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One planned run and what became of it."""

    repeat: str
    state: State
    record: Record | None
    value: float | None
    reason: str | None
    running: bool


def roll_up(
    spec: TableSpec, planned: Sequence[Planned], records: Mapping[str, Record], *, running: Collection[str] = ()
) -> Table:
    """Fill the table of `spec` from `records` by id.

    `planned` holds every cell of the table once, `running` the ids of runs under way. Raises TableError where the
    planned cells are not those of the table.
    """
    runs = _place_runs(spec, planned, records, frozenset(running))
    columns, footnotes = spec.points(spec.columns), Footnotes()
    rows = mark_best(tuple(_row(spec, row, columns, runs, footnotes) for row in spec.points(spec.rows)))
    counts = Counter(run.state for group in runs.values() for run in group)
    return Table(
        spec=spec,
        columns=columns,
        average_columns=_average_columns(spec),
        rows=rows,
        footnotes=footnotes.texts,
        counts={state: counts[state] for state in STATES if state != "partial"},
        running=sum(run.running for group in runs.values() for run in group),
    )


def _place_runs(
    spec: TableSpec, planned: Sequence[Planned], records: Mapping[str, Record], running: frozenset[str]
) -> dict[tuple[_Labels, _Labels], list[_Run]]:
    given = {tuple(each.cell.labels.get(axis, "") for axis in spec.axes) for each in planned}
    wanted = spec.points(tuple(spec.axes))
    if len(planned) != len(wanted) or given != set(wanted):
        raise TableError(f"table {spec.name} has {len(wanted)} cells, each planned once; got {len(planned)} others")
    ids = {each.id for each in planned}
    # A record that is itself asked for by this table never makes another cell stale.
    old_keys = {record.key for id, record in records.items() if id not in ids}
    runs: dict[tuple[_Labels, _Labels], list[_Run]] = {}
    for each in planned:
        labels = each.cell.labels
        place = tuple(tuple(labels[axis] for axis in axes) for axes in (spec.rows, spec.columns))
        run = _run(spec, each, records.get(each.id), old_keys, each.id in running)
        runs.setdefault((place[0], place[1]), []).append(run)
    return runs


def _run(spec: TableSpec, planned: Planned, record: Record | None, old_keys: Collection[Key], running: bool) -> _Run:
    repeat = " / ".join(planned.cell.labels[axis] for axis in spec.repeat)
    state: State
    value, reason = None, None
    if record is None:
        state = "stale" if planned.key in old_keys else "missing"
    elif record.status != "ok":
        state, reason = record.status, " ".join((record.reason or "").split())
    elif spec.metric not in record.metrics:
        state, reason = "failed", f"the run has no metric {spec.metric}, only {', '.join(sorted(record.metrics))}"
    else:
        state, value = "ok", record.metrics[spec.metric]
    return _Run(repeat=repeat, state=state, record=record, value=value, reason=reason, running=running)


def _row(
    spec: TableSpec,
    labels: _Labels,
    columns: Sequence[_Labels],
    runs: Mapping[tuple[_Labels, _Labels], list[_Run]],
    footnotes: Footnotes,
) -> Row:
    groups = [runs[labels, column] for column in columns]
    records = [[run.record for run in group if run.record is not None] for group in groups]
    of_row, of_entries = footnotes.place_notes(records)
    entries = tuple(
        replace(
            _entry(group, _paper_number(spec, labels, column)),
            footnotes=notes + footnotes.add(f"{run.state}: {run.reason}" for run in group if run.reason),
        )
        for group, column, notes in zip(groups, columns, of_entries, strict=True)
    )
    return Row(
        labels=labels,
        entries=entries,
        averages=tuple(
            _average([entry for entry, c in zip(entries, columns, strict=True) if _outside(spec, c) == place])
            for place in _average_columns(spec)
        ),
        facts=gather_facts([record for group in records for record in group if record.status == "ok"]),
        footnotes=of_row,
        reference=any(label in spec.references for label in labels),
    )


def _entry(runs: Sequence[_Run], paper: float | None) -> Entry:
    values = {run.repeat: run.value for run in runs if run.value is not None}
    states = {run.state for run in runs}
    state: State = "ok" if states == {"ok"} else "partial" if values else min(states, key=STATES.index)
    return _summary(
        values,
        state=state,
        expected=len(runs),
        paper=paper,
        reasons=tuple(dict.fromkeys(run.reason for run in runs if run.reason)),
        running=sum(run.running for run in runs),
    )


def _average(entries: Sequence[Entry]) -> Entry:
    complete = [entry for entry in entries if entry.state == "ok"]
    whole = len(complete) == len(entries)
    papers = [entry.paper for entry in entries if entry.paper is not None]
    repeats = entries[0].values if whole else ()
    return _summary(
        {repeat: math.fsum(entry.values[repeat] for entry in entries) / len(entries) for repeat in repeats},
        state="ok" if whole else "missing",
        expected=entries[0].expected,
        paper=statistics.fmean(papers) if len(papers) == len(entries) else None,
        coverage=(len(complete), len(entries)),
    )


def _summary(
    values: Mapping[str, float],
    *,
    state: State,
    expected: int,
    paper: float | None,
    reasons: tuple[str, ...] = (),
    running: int = 0,
    coverage: tuple[int, int] | None = None,
) -> Entry:
    mean = float(statistics.mean(values.values())) if values else None
    return Entry(
        state=state,
        values=values,
        mean=mean,
        std=statistics.stdev(values.values()) if len(values) > 1 else None,
        n=len(values),
        expected=expected,
        reasons=reasons,
        running=running,
        coverage=coverage,
        paper=paper,
        difference=None if mean is None or paper is None else mean - paper,
    )


def _paper_number(spec: TableSpec, row: _Labels, column: _Labels) -> float | None:
    labels = dict(zip(spec.rows + spec.columns, row + column, strict=True))
    return spec.paper.get(labels) if spec.paper is not None else None


def _average_columns(spec: TableSpec) -> tuple[_Labels, ...]:
    return spec.points([axis for axis in spec.columns if axis not in spec.average]) if spec.average else ()


def _outside(spec: TableSpec, column: _Labels) -> _Labels:
    """The labels of a column on the axes that its average does not run over."""
    return tuple(label for axis, label in zip(spec.columns, column, strict=True) if axis not in spec.average)
