"""What became of each planned run, at its place in the table."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from results.entry import State
from results.measures import value_of
from results.record import Record
from results.records import Records
from results.table import Planned, TableError, TableSpec

Labels = tuple[str, ...]
Place = tuple[Labels, Labels]
_FEW = 6  # metrics that an error lists; of more it names the nearest


@dataclass(frozen=True, kw_only=True)
class PlacedRun:
    """One planned run and what became of it; `repeat` is its label on the axes behind a mean."""

    id: str
    repeat: str
    state: State
    record: Record | None
    value: float | None
    reason: str | None
    running: bool


def place_runs(
    spec: TableSpec, planned: Sequence[Planned], records: Mapping[str, Record], running: Collection[str]
) -> dict[Place, list[PlacedRun]]:
    """Return the runs of every place (row labels, column labels) that has runs of ours, each run once per place.

    Raises TableError where the planned cells are not those of the table.
    """
    given = {tuple(each.cell.labels.get(axis, "") for axis in spec.axes) for each in planned}
    wanted = {tuple(cell.labels.values()) for cell in spec.cells()}
    if len(planned) != len(wanted) or given != wanted:
        raise TableError(f"table {spec.name} has {len(wanted)} cells, each planned once; got {len(planned)} others")
    ids = {each.id for each in planned}
    known = Records.of(records)
    runs: dict[Place, list[PlacedRun]] = {}
    for each in planned:
        # A record that is itself asked for by this table never makes another cell stale.
        outdated = each.id not in known and any(id not in ids for id in known.ids_of(each.key))
        run = _placed(spec, each, known.get(each.id), outdated, each.id in running)
        runs.setdefault(_place(spec, each.cell.labels), []).append(run)
    runs = _relative(spec, runs) if spec.relative else runs
    return {place: list({run.id: run for run in reversed(group)}.values())[::-1] for place, group in runs.items()}


def _place(spec: TableSpec, labels: Mapping[str, str]) -> Place:
    return tuple(labels[axis] for axis in spec.rows), tuple(labels[axis] for axis in spec.columns)


def _placed(spec: TableSpec, planned: Planned, record: Record | None, outdated: bool, running: bool) -> PlacedRun:
    repeat = " / ".join(planned.cell.labels[axis] for axis in spec.repeat)
    state: State
    value, reason, metric = None, None, planned.cell.metric
    if record is None:
        state = "stale" if outdated else "missing"
    elif record.status != "ok":
        state, reason = record.status, " ".join((record.reason or "").split())
    elif (value := value_of(record, metric)) is None:
        state, reason = "failed", f"the run has no metric {metric}, {_metrics(record, metric)}"
    else:
        state = "ok"
    return PlacedRun(
        id=planned.id, repeat=repeat, state=state, record=record, value=value, reason=reason, running=running
    )


def _metrics(record: Record, asked: str) -> str:
    names = sorted(record.metrics)
    if len(names) <= _FEW:
        return f"only {', '.join(names)}"
    nearest = difflib.get_close_matches(asked, names, n=_FEW, cutoff=0.0)
    return f"only {len(names)} others, nearest {', '.join(nearest)}"


def _relative(spec: TableSpec, runs: Mapping[Place, list[PlacedRun]]) -> dict[Place, list[PlacedRun]]:
    """Return the runs with every value as a share of that of the reference's run of the same repeat."""
    shares: dict[Place, list[PlacedRun]] = {}
    for place, group in runs.items():
        labels = {**dict(zip(spec.rows + spec.columns, (*place[0], *place[1]), strict=True)), **spec.relative}
        references = {run.repeat: run for run in runs[_place(spec, labels)]}
        shares[place] = [_share(run, references[run.repeat]) for run in group]
    return shares


def _share(run: PlacedRun, reference: PlacedRun) -> PlacedRun:
    if run.value is None or run.record is None:
        return run
    if not reference.value or reference.record is None:
        return replace(run, state="missing", value=None)
    mine, other = run.record.provenance.device, reference.record.provenance.device
    if mine != other:
        reason = f"measured on {mine}, what it is relative to on {other}"
        return replace(run, state="failed", value=None, reason=reason)
    return replace(run, value=run.value / reference.value)
