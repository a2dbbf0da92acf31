"""Table files and the runs they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from results import render
from results.rollup import Table, roll_up
from results.store import RecordStore, Scan
from results.table import Planned, TableError, TableSpec, find_table
from results.table_parser import load_table
from runners.compose import Composed, ConfigError, compose_parts, plain
from runners.machine import EXPERIMENTS, ROOT
from runners.plan import Planner, Run

FORMATS = {"markdown": render.markdown, "latex": render.latex, "csv": render.csv, "json": render.json}
TABLES = ROOT / "results" / "tables"


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """A table file with the composed config of each of its cells; cells of one run share its id."""

    spec: TableSpec
    planned: tuple[Planned, ...]
    configs: tuple[Composed, ...]
    planner: Planner

    @cached_property
    def runs(self) -> Mapping[str, Planned]:
        """The first cell of every run, by id in the order of the table."""
        first: dict[str, Planned] = {}
        for one in self.planned:
            first.setdefault(one.id, one)
        return first

    def check(self, id: str) -> Run:
        """Return the run with this id; errors as of :func:`runners.plan.check_run`."""
        return self.planner.check(self._by_id[id])

    @cached_property
    def _by_id(self) -> dict[str, Composed]:
        return {one.id: config for one, config in zip(self.planned, self.configs, strict=True)}

    def roll_up(self, scan: Scan) -> Table:
        """Return the table of the records."""
        return roll_up(self.spec, self.planned, scan.records)


def plan_table(
    name: str,
    *,
    forwarded: Sequence[str] = (),
    where: Mapping[str, Sequence[str]] | None = None,
    planner: Planner | None = None,
) -> PlannedTable:
    """Compose every cell of a table.

    Args:
        name: a file of ``experiments/`` without its ending.
        forwarded: overrides outside the runs' identity, such as ``machine.device=cpu``, for every cell.
        where: labels by axis; only cells with these.
        planner: one for several tables, so that what they share is done once.

    Raises:
        ConfigError: if there is no such table, its file is not valid, it has no such axis or label, or a cell does not
            compose.
    """
    try:
        spec = load_table(find_table(name, EXPERIMENTS)).select(where or {})
    except TableError as error:
        raise ConfigError(str(error)) from error
    cells = spec.cells()
    try:
        # cells that differ in their metric alone are composed once
        jobs = list(dict.fromkeys(cell.overrides for cell in cells))
        composed = dict(zip(jobs, compose_parts("config", [[*job, *forwarded] for job in jobs]), strict=True))
    except ConfigError as error:
        raise ConfigError(f"table {name}: {error}") from error
    planner = planner or Planner()
    identities = {job: planner.identify(config) for job, config in composed.items()}
    planned = [Planned(cell=cell, id=id, key=key) for cell in cells for id, key in [identities[cell.overrides]]]
    configs = tuple(composed[cell.overrides] for cell in cells)
    return PlannedTable(spec=spec, planned=tuple(planned), configs=configs, planner=planner)


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
