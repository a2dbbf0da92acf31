"""A results folder of many records, for measuring what reading them takes: real ones, over and over with new seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from results.record import Failure, Record, run_id
from results.store import RecordStore

FIRST_SEED = 1000  # above those of any table
FAILED_EVERY = 50


def write_many(source: Path, target: Path, *, count: int) -> int:
    """Fill a new folder with `count` valid records and return how many bytes their files have.

    First come the records of `source`, then copies of them under seeds that no table has, of which one in fifty says
    that it failed.

    Raises:
        ValueError: if `source` holds no record, or `target` exists.
    """
    templates = list(RecordStore(source).scan().records.values())
    if not templates:
        raise ValueError(f"{source} holds no record to copy; give the records/ of a published table")
    if target.exists():
        raise ValueError(f"{target} exists; give the name of a new folder")
    size = 0
    for record in itertools.islice(_endless(templates), count):
        path = target / record.id / "record.json"
        path.parent.mkdir(parents=True)
        # not through the store, which waits for the disk at every record
        size += path.write_bytes(record.to_json().encode())
    return size


def _endless(templates: Sequence[Record]) -> Iterator[Record]:
    yield from templates
    for number in itertools.count():
        # templates may differ in their seed alone, so every copy has a seed of its own
        record = _copy(templates[number % len(templates)], FIRST_SEED + number)
        failed = number % FAILED_EVERY == 0 and record.status == "ok"
        yield _failed(record) if failed else record


def _copy(record: Record, seed: int) -> Record:
    config = {**record.config, "seed": seed}
    id = run_id(config, rules_version=record.rules_version)
    return replace(record, id=id, config=config, key=replace(record.key, seed=seed))


def _failed(record: Record) -> Record:
    steps = record.timing.steps if record.timing else 1
    failure = Failure(kind="diverged", step=1, steps=steps)
    return replace(record, status="failed", reason=f"diverged at step 1 of {steps}", failure=failure, metrics={})
