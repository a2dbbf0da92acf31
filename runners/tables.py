"""Table files and the runs they are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from results import render
from results.places import PlacedRun
from results.rollup import Table, roll_up, run_states
from results.store import RecordStore, Scan
from results.table import Planned, TableError, TableSpec, find_table
from results.table_parser import load_table
from runners.compose import Composed, ConfigError, compose_parts, plain
from runners.identities import Identities
from runners.machine import EXPERIMENTS, ROOT
from runners.plan import Planner, Run

Job = tuple[str, ...]
FORMATS = {"markdown": render.markdown, "latex": render.latex, "csv": render.csv, "json": render.json}
TABLES = ROOT / "results" / "tables"


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """A table file with the run of each of its cells; cells of one run share its id.

    ``forwarded`` are the overrides outside the runs' identity.
    """

    spec: TableSpec
    planned: tuple[Planned, ...]
    forwarded: tuple[str, ...]
    planner: Planner

    @cached_property
    def runs(self) -> Mapping[str, Planned]:
        """The first cell of every run, by id in the order of the table."""
        first: dict[str, Planned] = {}
        for one in self.planned:
            first.setdefault(one.id, one)
        return first

    @cached_property
    def configs(self) -> tuple[Composed, ...]:
        """The composed config of each cell."""
        composed = _composed(self.spec.name, [one.cell.overrides for one in self.planned], self.forwarded)
        return tuple(composed[one.cell.overrides] for one in self.planned)

    def config(self, id: str) -> Composed:
        """Return the composed config of the run with this id."""
        return self._by_id[id]

    def check(self, id: str) -> Run:
        """Return the run with this id; errors as of :func:`runners.plan.check_run`."""
        return self.planner.check(self.config(id))

    @cached_property
    def _by_id(self) -> dict[str, Composed]:
        return {one.id: config for one, config in zip(self.planned, self.configs, strict=True)}

    def roll_up(self, scan: Scan, *, running: Collection[str] = ()) -> Table:
        """Return the table of the records; ``running`` are the ids of runs under way."""
        return roll_up(self.spec, self.planned, scan.records, running=running)

    def states(self, scan: Scan, *, running: Collection[str] = ()) -> dict[str, PlacedRun]:
        """Return what became of each run, by id, at the place where it is worst."""
        return run_states(self.spec, self.planned, scan.records, running=running)


def plan_table(
    name: str,
    *,
    forwarded: Sequence[str] = (),
    where: Mapping[str, Sequence[str]] | None = None,
    planner: Planner | None = None,
    identities: Identities | None = None,
) -> PlannedTable:
    """Find the run of every cell of a table.

    Args:
        name: a file of ``experiments/`` without its ending.
        forwarded: overrides outside the runs' identity, such as ``machine.device=cpu``, for every cell.
        where: labels by axis; only cells with these.
        planner: one for several tables, so that what they share is done once.
        identities: runs that are known without composing them, and where those composed now are kept. Without them,
            every cell is composed.

    Raises:
        ConfigError: if there is no such table, its file is not valid, it has no such axis or label, or a cell does not
            compose.
    """
    try:
        spec = load_table(find_table(name, EXPERIMENTS)).select(where or {})
    except TableError as error:
        raise ConfigError(str(error)) from error
    cells, planner = spec.cells(), planner or Planner()
    # cells that differ in their metric alone are one run
    known = {job: identities.get(job) if identities else None for job in dict.fromkeys(one.overrides for one in cells)}
    composed = _composed(name, [job for job, found in known.items() if found is None], forwarded)
    made = {job: planner.identify(config) for job, config in composed.items()}
    if identities is not None:
        for job, (id, key) in made.items():
            identities.put(job, id, key)
    runs = made | {job: found for job, found in known.items() if found is not None}
    planned = tuple(Planned(cell=cell, id=id, key=key) for cell in cells for id, key in [runs[cell.overrides]])
    return PlannedTable(spec=spec, planned=planned, forwarded=tuple(forwarded), planner=planner)


def _composed(name: str, jobs: Sequence[Job], forwarded: Sequence[str]) -> dict[Job, Composed]:
    unique = list(dict.fromkeys(jobs))
    if not unique:
        return {}
    try:
        return dict(zip(unique, compose_parts("config", [[*job, *forwarded] for job in unique]), strict=True))
    except ConfigError as error:
        raise ConfigError(f"table {name}: {error}") from error


def names() -> list[str]:
    """Return the names of all tables."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


def store_of(folder: str | Path) -> RecordStore:
    """Return the record store of a folder, relative to the suite's root."""
    return RecordStore(ROOT / Path(folder).expanduser())


def chosen_labels(where: object) -> dict[str, list[str]]:
    """Return the labels by axis that ``where`` asks for; ConfigError unless it maps axes to labels."""
    asked = plain(where)
    if asked is None:
        return {}
    if not isinstance(asked, dict):
        raise ConfigError(f"where={asked}: valid: labels by axis, such as 'where={{data: [1 shot], method: [FT]}}'")
    return {str(axis): list(map(str, one if isinstance(one, list) else [one])) for axis, one in asked.items()}
