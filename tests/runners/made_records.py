"""Records of a table's runs without running them, for verbs that only look at records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from results.record import Failure, Provenance, Record, run_id
from results.store import RecordStore
from runners.compose import SCIENTIFIC, deciding
from runners.tables import plan_table


def made_records(table: str) -> dict[tuple[str, str], Record]:
    """Return an ok record of every run of a table, by the labels of method and seed."""
    planned = plan_table(table)
    made = {}
    for id, one in planned.runs.items():
        config = {name: deciding(planned.config(id).nodes[name]) for name in SCIENTIFIC}
        labels = one.cell.labels
        made[labels["method"], labels["seed"]] = Record(
            id=id,
            key=one.key,
            config=config,
            status="ok",
            metrics={"test/top1": 0.5},
            provenance=Provenance(
                versions={},
                device="cpu",
                threads=1,
                precision="float32",
                data_digests={},
                command="randlora sweep",
                started_at="2026-01-01T00:00:00+00:00",
            ),
        )
    return made


def failed(record: Record, failure: Failure | None, reason: str) -> Record:
    return replace(record, status="failed", reason=reason, failure=failure, metrics={})


def changed(record: Record, group: str, **fields: Any) -> Record:
    """Return the record of the same key under another config; a field that is None is left out of it."""
    part: Mapping[str, Any] = {**record.config[group], **fields}
    config = {**record.config, group: {name: value for name, value in part.items() if value is not None}}
    return replace(record, id=run_id(config), config=config)


def write_newer(store: RecordStore, record: Record) -> Path:
    """Write a record as a newer version of the suite would."""
    path = store.write(record)
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    return path
