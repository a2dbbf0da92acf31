"""Sweeps of which something fails: a run, or the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import BROKEN, TINY_METHODS, Lab, Outcome, write_table

Command = Callable[..., Outcome]


def test_a_method_that_fails_does_not_stop_the_others(experiments: Path, sweep: Command, lab: Lab) -> None:
    write_table(experiments, "small", methods={"Broken": BROKEN, **TINY_METHODS}, seeds=[1])
    outcome = sweep()
    assert outcome.code == 1
    assert "2 run, 1 failed, 0 recorded before, 0 left" in outcome.err
    (failed,) = (record for record in lab.store.scan().records.values() if record.status == "failed")
    assert f"failed: {failed.id}: {failed.reason}" in outcome.err
    assert "1000 shots" in outcome.out  # a footnote of the table

    left_alone = sweep()
    assert "small: 3 cells, 0 to run" in left_alone.err
    assert left_alone.code == 1
    assert f"failed: {failed.id}: {failed.reason}" in left_alone.err
    assert "'randlora sweep table=small retry=failed' runs them again" in left_alone.err


@pytest.mark.parametrize(("retry", "runs"), [("failed", 1), ("all", 2)])
def test_failed_runs_are_run_again_when_that_is_asked_for(
    experiments: Path, sweep: Command, lab: Lab, retry: str, runs: int
) -> None:
    write_table(experiments, "small", methods={"Broken": BROKEN, **TINY_METHODS}, seeds=[1])
    assert sweep("where={method: [Broken, LoRA]}").code == 1
    before = {id: record.provenance.started_at for id, record in lab.store.scan().records.items()}
    (lost,) = (record.id for record in lab.store.scan().records.values() if record.status == "failed")
    file = lab.results / lost / "record.json"
    first = file.stat().st_mtime_ns
    again = sweep(f"retry={retry}")
    assert again.code == 1
    assert f"small: 3 cells, {runs} to run" in again.err
    assert f"{runs - 1} run, 1 failed, {3 - runs} recorded before, 0 left" in again.err
    assert file.stat().st_mtime_ns > first
    after = lab.store.scan().records
    assert len(after) == 2 + (retry == "all")
    assert all(after[id].provenance.started_at == when for id, when in before.items() if id != lost)


def test_what_to_retry_is_checked(experiments: Path, sweep: Command) -> None:
    write_table(experiments, "small")
    outcome = sweep("retry=broken")
    assert outcome.code == 2
    assert "retry=broken: valid: failed (those alone), all (and the missing ones), null" in outcome.err


def test_failures_of_one_reason_are_one_line(experiments: Path, sweep: Command) -> None:
    write_table(experiments, "small", methods={"Broken": BROKEN, "Broken too": [*BROKEN, "method.alpha=2"]})
    (line,) = (line for line in sweep().err.splitlines() if line.startswith("failed: "))
    assert " and 3 more: DataError: " in line


def test_fail_fast_stops_at_the_first_failure(experiments: Path, sweep: Command, lab: Lab) -> None:
    write_table(experiments, "small", methods={"Broken": BROKEN, **TINY_METHODS}, seeds=[1])
    outcome = sweep("fail_fast=true")
    assert outcome.code == 1
    assert "0 run, 1 failed, 0 recorded before, 2 left" in outcome.err
    assert "stopped at the first failure (fail_fast=true)" in outcome.err
    assert len(lab.store.scan().records) == 1


def test_a_full_disk_ends_a_sweep_with_an_error(
    whole: Path, sweep: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sorted(lab.results.glob("*/record.json"))[0]
    shutil.rmtree(path.parent)
    before = lab.store.scan().records

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("results.files._fill", full)
        outcome = sweep()
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert lab.store.scan().records == before
    assert sweep().code == 0
