"""Records as a run would leave them, for the tests of the results room."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from results.record import Key, Memory, Parameters, PhaseMemory, Provenance, Record, Status, Timing, run_id
from results.table import Planned, TableSpec

MIB = 2**20


def make_config(*, method: str = "lora", dataset: str = "mnist", seed: int = 1, **extra: Any) -> dict[str, Any]:
    return {
        "method": {"name": method, "rank": 4},
        "dataset": {"name": dataset},
        "recipe": {"learning_rate": 0.001, "data": 16},
        "seed": seed,
        **extra,
    }


def make_key(*, method: str = "lora", dataset: str = "mnist", seed: int = 1) -> Key:
    return Key(
        method=method, backbone="micro_clip", dataset=dataset, recipe="clip data=16", budget="match_lora", seed=seed
    )


def make_record(
    *,
    method: str = "lora",
    dataset: str = "mnist",
    seed: int = 1,
    status: Status = "ok",
    reason: str | None = None,
    metrics: Mapping[str, float] | None = None,
    parameters: Parameters | None = None,
    notes: tuple[str, ...] = (),
    device: str = "cpu",
    step_s: float | None = 0.012,
    **extra: Any,
) -> Record:
    config = make_config(method=method, dataset=dataset, seed=seed, **extra)
    peak = PhaseMemory(allocated_bytes=90 * MIB, reserved_bytes=128 * MIB) if device == "cuda" else None
    peak = peak or PhaseMemory(process_peak_bytes=700 * MIB)
    return Record(
        id=run_id(config),
        key=make_key(method=method, dataset=dataset, seed=seed),
        config=config,
        status=status,
        reason=reason,
        metrics=({"test/top1": 0.873} if metrics is None else metrics) if status == "ok" else {},
        checks={"frozen_unchanged": True},
        notes=notes,
        parameters=parameters or Parameters(adapter=47_328, head=0, frozen=3_000_000, predicted=47_328),
        memory=Memory(device=device, load=peak, train=None if step_s is None else peak, evaluation=peak),
        timing=Timing(steps=0 if step_s is None else 40, step_median_s=step_s, train_s=1.5, total_s=3.0),
        provenance=Provenance(
            versions={"torch": "2.13.0"},
            device=device,
            threads=1,
            precision="float32",
            data_digests={"mnist": "ab"},
            command="randlora run",
            started_at="2025-01-01T00:00:00Z",
        ),
    )


def plan(spec: TableSpec) -> tuple[Planned, ...]:
    """Stand in for the runner: the config of a cell is its labels."""
    return tuple(
        Planned(cell=cell, id=run_id(labels_config(cell.labels)), key=labels_key(cell.labels)) for cell in spec.cells()
    )


def labels_config(labels: Mapping[str, str], **extra: Any) -> dict[str, Any]:
    return {**labels, **extra}


def labels_key(labels: Mapping[str, str]) -> Key:
    return Key(
        method=labels["method"],
        backbone="micro_clip",
        dataset=labels.get("dataset", "mnist"),
        recipe=labels.get("data", "clip"),
        budget="match_lora",
        seed=int(labels.get("seed", "1")),
    )


def record_of(labels: Mapping[str, str], *, top1: float | None = 0.5, extra: Any = None, **changes: Any) -> Record:
    """Return the record of the run with these labels, under another config where `extra` is given."""
    config = labels_config(labels) if extra is None else labels_config(labels, extra=extra)
    metrics = {} if top1 is None else {"test/top1": top1}
    changes = {"metrics": metrics, **changes}
    return dataclasses.replace(make_record(), id=run_id(config), config=config, key=labels_key(labels), **changes)


def by_id(*records: Record) -> dict[str, Record]:
    return {record.id: record for record in records}
