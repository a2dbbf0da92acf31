"""What `randlora status` says of single runs: why they failed, what they are stale for, who is at them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.claims import Holder
from results.config_diff import Change, changes
from results.places import PlacedRun
from results.record import RULES_VERSION, FailureKind, Record
from results.store import RecordStore, Scan
from runners.compose import SCIENTIFIC, deciding
from runners.loggers import CURVES
from runners.run_log import FAILURE, LOG, tail
from runners.tables import PlannedTable

KINDS: Mapping[FailureKind, str] = {
    "out_of_memory": "out of memory",
    "diverged": "diverged",
    "timed_out": "timed out",
    "data": "data missing or malformed",
    "weights": "weights missing or malformed",
    "contract": "the method breaks its contract",
    "worker_died": "its worker died",
    "error": "error",
}
TAIL_LINES = 10
RESULTS = "results/runs"
Block = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TableRuns:
    """A table, and what became of each of its runs, by id."""

    planned: PlannedTable
    runs: Mapping[str, PlacedRun]

    @property
    def name(self) -> str:
        """The name of the table."""
        return self.planned.spec.name

    def labels(self, id: str) -> Mapping[str, str]:
        """Return the labels of the first cell of a run."""
        return self.planned.runs[id].cell.labels


@dataclass(frozen=True, kw_only=True)
class Details:
    """Tells of single runs.

    Attributes:
        tables: the tables that are looked at.
        scan: the records.
        store: where they are.
        results: how the folder was given, for commands.
        only: leave out runs that none of the tables has.
    """

    tables: Sequence[TableRuns]
    scan: Scan
    store: RecordStore
    results: str
    only: bool

    def failed(self) -> list[Block]:
        """Return one block per failed run: why, at which step, the end of its log, what runs it again."""
        ids = [id for table in self.tables for id, run in table.runs.items() if run.state == "failed"]
        others = [] if self.only else self.scan.records.with_status("failed")
        return [self._failed(id) for id in dict.fromkeys((*ids, *others))]

    def stale(self) -> list[Block]:
        """Return one block per stale run of each table: the newest record of its name, and what has changed since."""
        found = [(table, id) for table in self.tables for id, run in table.runs.items() if run.state == "stale"]
        return [self._stale(table, id) for table, id in found]

    def running(self, holders: Mapping[str, Holder]) -> list[Block]:
        """Return one block per run that somebody has claimed."""
        ids = [id for id in holders if not self.only or list(self._places(id))]
        return [self._running(id, holders[id]) for id in ids]

    def _failed(self, id: str) -> Block:
        record = self.scan.records[id]
        failure = record.failure
        reasons = [run.reason for table in self.tables if (run := table.runs.get(id)) and run.reason]
        log = self._log(id)
        places = list(self._places(id))
        return {
            "run": id,
            "places": places,
            "key": dataclasses.asdict(record.key),
            "kind": failure.kind if failure else None,
            "step": failure.step if failure else None,
            "steps": failure.steps if failure else None,
            "reason": record.reason or next(iter(reasons), ""),
            "log": None if log is None else str(Path(self.results, id, log.name)),
            "tail": [] if log is None else tail(log, lines=TAIL_LINES),
            "again": self._again(record, places[0]["table"]) if places else None,
        }

    def _stale(self, table: TableRuns, id: str) -> Block:
        planned = table.planned.runs[id]
        records = self.scan.records
        olds = [records[old] for old in records.ids_of(planned.key) if old not in table.planned.runs]
        old = max(olds, key=lambda record: record.provenance.started_at)
        return {
            "run": id,
            "table": table.name,
            "labels": dict(planned.cell.labels),
            "key": dataclasses.asdict(planned.key),
            "old": old.id,
            "older": len(olds) - 1,
            "started_at": old.provenance.started_at,
            "changes": [_change(one) for one in _since(old, table.planned, id)],
            "again": f"randlora sweep table={table.name}{self._there('machine.results')}",
            "remove": f"randlora forget table={table.name} state=stale{self._there('records')}",
        }

    def _running(self, id: str, holder: Holder) -> Block:
        return {
            "run": id,
            "places": list(self._places(id)),
            "host": holder.host,
            "pid": holder.pid,
            "worker": holder.worker,
            "since": holder.since,
            "deaths": holder.generation - 1,
            "gone": holder.is_gone,
            "step": _last_step(self.store.folder(id) / CURVES),
        }

    def _places(self, id: str) -> Iterator[Block]:
        for table in self.tables:
            if id in table.runs:
                yield {"table": table.name, "labels": dict(table.labels(id))}

    def _again(self, record: Record, table: str) -> str:
        there = self._there("machine.results")
        if record.status == "failed":
            return f"randlora sweep table={table} retry=failed{there}"
        return f"randlora forget id={record.id}{self._there('records')}; randlora sweep table={table}{there}"

    def _there(self, name: str) -> str:
        return "" if self.results == RESULTS else f" {name}={self.results}"

    def _log(self, id: str) -> Path | None:
        folder = self.store.folder(id)
        return next((folder / name for name in (FAILURE, LOG) if (folder / name).is_file()), None)


def _since(old: Record, planned: PlannedTable, id: str) -> list[Change]:
    nodes = planned.config(id).nodes
    found = list(changes(old.config, {name: deciding(nodes[name]) for name in SCIENTIFIC}))
    if old.rules_version != RULES_VERSION:
        found.append(Change(field="rules_version", old=str(old.rules_version), new=str(RULES_VERSION)))
    return found


def _change(change: Change) -> Block:
    values = {"old": change.old, "new": change.new}
    return {"field": change.field} | {name: json.loads(text) for name, text in values.items() if text is not None}


def _last_step(path: Path) -> int | None:
    """Return the step of the last whole line of a run's curves, None where there is none yet."""
    for line in reversed(tail(path, lines=2)):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and isinstance(said.get("step"), int):
            return int(said["step"])
    return None
