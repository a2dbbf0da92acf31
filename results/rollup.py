"""The roll-up: records and a table file in, a table out. A pure function that never averages over a hole.

Each run is ok, failed, skipped, stale or missing, and counted once however many places it answers. An entry gathers the
repeats (seeds) behind one place of the table; an average is a hole, with its coverage, unless every entry under it is
complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from results.best import mark_best
from results.entry import STATES, Entry, Row, State, average, summarise
from results.facts import gather_facts
from results.footnotes import Footnotes
from results.paper_numbers import Number
from results.places import Labels, Place, PlacedRun, place_runs
from results.record import Record
from results.table import Planned, TableSpec
from results.verdict import VERDICTS, Verdict


@dataclass(frozen=True, kw_only=True)
class Table:
    """A rolled-up table: `completed` of `total` runs are ok, `counts` has every state, `running` are under way.

    Footnotes are numbered from 1 in the order of `footnotes`; `column_notes` are those of each of `columns`. `verdicts`
    counts those of the entries, or of the averages where the paper's numbers are averages.
    """

    spec: TableSpec
    columns: tuple[Labels, ...]
    column_notes: tuple[tuple[int, ...], ...]
    average_columns: tuple[Labels, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]
    counts: Mapping[State, int]
    verdicts: Mapping[Verdict, int]
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

    def averages_only(self) -> Table:
        """Return the table without its entries; the counts stay those of all of it."""
        rows = tuple(replace(row, entries=()) for row in self.rows)
        return replace(self, columns=(), column_notes=(), rows=rows)


def roll_up(
    spec: TableSpec, planned: Sequence[Planned], records: Mapping[str, Record], *, running: Collection[str] = ()
) -> Table:
    """Fill the table of `spec` from `records` by id.

    `planned` holds every cell of the table once, `running` the ids of runs under way. Raises TableError where the
    planned cells are not those of the table.
    """
    runs = place_runs(spec, planned, records, frozenset(running))
    columns, footnotes = spec.points(spec.columns), Footnotes()
    column_notes = tuple(footnotes.stated(spec, spec.columns, column) for column in columns)
    rows = mark_best(tuple(_row(spec, row, columns, runs, footnotes) for row in spec.points(spec.rows)))
    counts = Counter(_states(run for group in runs.values() for run in group).values())
    return Table(
        spec=spec,
        columns=columns,
        column_notes=column_notes,
        average_columns=_average_columns(spec),
        rows=rows,
        footnotes=footnotes.texts,
        counts={state: counts[state] for state in STATES if state not in ("partial", "paper")},
        verdicts=_verdicts(spec, rows),
        running=len({run.id for group in runs.values() for run in group if run.running}),
    )


def run_states(
    spec: TableSpec, planned: Sequence[Planned], records: Mapping[str, Record], *, running: Collection[str] = ()
) -> dict[str, PlacedRun]:
    """Return each run of a table by its id, at the place where it is worst; errors as of :func:`roll_up`."""
    places = place_runs(spec, planned, records, frozenset(running)).values()
    return _worst(run for group in places for run in group)


def _states(runs: Iterable[PlacedRun]) -> dict[str, State]:
    """Return the state of each run by its id: ok only where it is ok at each of its places."""
    return {id: run.state for id, run in _worst(runs).items()}


def _worst(runs: Iterable[PlacedRun]) -> dict[str, PlacedRun]:
    worst: dict[str, PlacedRun] = {}
    for run in runs:
        worst[run.id] = max(worst.get(run.id, run), run, key=lambda one: STATES.index(one.state))
    return worst


def _verdicts(spec: TableSpec, rows: Sequence[Row]) -> dict[Verdict, int]:
    of_averages = spec.paper is not None and spec.paper.of == "averages"
    found = Counter(entry.verdict for row in rows for entry in (row.averages if of_averages else row.entries))
    return {verdict: found[verdict] for verdict in VERDICTS}


def _row(
    spec: TableSpec,
    labels: Labels,
    columns: Sequence[Labels],
    runs: Mapping[Place, list[PlacedRun]],
    footnotes: Footnotes,
) -> Row:
    groups = [runs.get((labels, column), []) for column in columns]
    records = [[run.record for run in group if run.record is not None] for group in groups]
    stated = footnotes.stated(spec, spec.rows, labels)
    of_row, of_entries = footnotes.place_notes(records)
    papers = [_paper_number(spec, spec.rows + spec.columns, labels + column, of="cells") for column in columns]
    entries = tuple(
        _entry(
            group,
            paper,
            footnotes=footnotes.stated(spec, spec.rows + spec.columns, labels + column)
            + notes
            + footnotes.add(f"{run.state}: {run.reason}" for run in group if run.reason),
        )
        for group, column, paper, notes in zip(groups, columns, papers, of_entries, strict=True)
    )
    return Row(
        labels=labels,
        entries=entries,
        averages=tuple(
            _average(spec, labels, place, list(zip(columns, entries, papers, strict=True)), footnotes)
            for place in _average_columns(spec)
        ),
        facts=gather_facts([record for group in records for record in group if record.status == "ok"]),
        footnotes=stated + of_row,
        reference=any(label in spec.references for label in labels),
    )


def _entry(runs: Sequence[PlacedRun], paper: Number | None, *, footnotes: tuple[int, ...]) -> Entry:
    values = {run.repeat: run.value for run in runs if run.value is not None}
    states = {run.state for run in runs} or {"paper"}
    state: State = "ok" if states == {"ok"} else "partial" if values else min(states, key=STATES.index)
    return summarise(
        values,
        state=state,
        expected=len(runs),
        paper=paper,
        reasons=tuple(dict.fromkeys(run.reason for run in runs if run.reason)),
        footnotes=footnotes,
        running=sum(run.running for run in runs),
    )


def _average(
    spec: TableSpec,
    labels: Labels,
    place: Labels,
    entries: Sequence[tuple[Labels, Entry, Number | None]],
    footnotes: Footnotes,
) -> Entry:
    own = [(entry, paper) for column, entry, paper in entries if _outside(spec, column) == place]
    axes = spec.rows + tuple(axis for axis in spec.columns if axis not in spec.average)
    found = average(
        [entry for entry, _ in own],
        papers=[paper for _, paper in own],
        printed=_paper_number(spec, axes, labels + place, of="averages"),
    )
    return replace(found, footnotes=footnotes.stated(spec, axes, labels + place, on_average=True))


def _paper_number(spec: TableSpec, axes: Sequence[str], labels: Labels, *, of: str) -> Number | None:
    if spec.paper is None or spec.paper.of != of:
        return None
    place = dict(zip(axes, labels, strict=True))
    # what everything is relative to is 100 % on both sides
    if spec.relative and all(place.get(axis) == label for axis, label in spec.relative.items()):
        return None
    return spec.paper.get(place)


def _average_columns(spec: TableSpec) -> tuple[Labels, ...]:
    return spec.points([axis for axis in spec.columns if axis not in spec.average]) if spec.average else ()


def _outside(spec: TableSpec, column: Labels) -> Labels:
    """The labels of a column on the axes that its average does not run over."""
    return tuple(label for axis, label in zip(spec.columns, column, strict=True) if axis not in spec.average)
