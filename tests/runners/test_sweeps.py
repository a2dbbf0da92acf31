"""Sweeps over a table of four small runs: what is run, what is not, and what is said about it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab import BROKEN, TINY_METHODS, Lab, Outcome, write_table
from made_records import write_newer

import runners.publish
import runners.sweep_progress
import runners.work
from results.record import Record
from results.store import RecordStore
from runners.compose import compose
from runners.events import Event, Recorded, Stepped
from runners.execute import Bench, execute
from runners.plan import check_run
from runners.tables import plan_table

Command = Callable[..., Outcome]
FORMS = ["csv", "json", "md", "png", "tex"]


@pytest.fixture
def sweep(lab: Lab, command: Command) -> Command:
    """Sweep the table ``small`` into the lab's results."""
    return lambda *extra: command("sweep", "table=small", "launcher=inline", *lab.machine, *extra)


@pytest.fixture
def whole(experiments: Path, lab: Lab, swept: Path) -> Path:
    """The table ``small``, all of it recorded in the lab's results."""
    write_table(experiments, "small")
    shutil.copytree(swept / "results", lab.results)
    return experiments


def test_a_sweep_records_every_cell_and_writes_the_table(swept: Path) -> None:
    records = RecordStore(swept / "results").scan().records.values()
    assert sorted((record.key.method, record.key.seed, record.status) for record in records) == [
        ("lora rank=1", 1, "ok"),
        ("lora rank=1", 2, "ok"),
        ("vera rank=4", 1, "ok"),
        ("vera rank=4", 2, "ok"),
    ]
    files = sorted((swept / "tables").iterdir())
    assert [file.name for file in files] == [f"small.{form}" for form in FORMS]
    assert all(file.stat().st_size > 0 for file in files)
    document = json.loads((swept / "tables" / "small.json").read_text())
    assert document["coverage"]["completed"] == document["coverage"]["total"] == 4


def test_running_it_again_runs_nothing_and_prints_the_table(whole: Path, sweep: Command, swept: Path) -> None:
    outcome = sweep()
    assert outcome.code == 0
    assert "small: 4 cells, 0 to run" in outcome.err
    assert "0 run, 0 failed, 4 recorded before, 0 left" in outcome.err
    assert outcome.out.startswith((swept / "tables" / "small.md").read_text().rstrip("\n"))


def test_an_interrupted_sweep_continues(
    experiments: Path, sweep: Command, lab: Lab, swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(experiments, "small")
    with monkeypatch.context() as patch:
        interrupt_at(Recorded, patch)
        stopped = sweep()
    assert stopped.code == 130
    assert "1 run, 0 failed, 0 recorded before, 3 left" in stopped.err
    assert "the same command continues" in stopped.err
    assert "Small runs of small" in stopped.out
    assert len(lab.store.scan().records) == 1

    outcome = sweep()
    assert outcome.code == 0
    assert "small: 4 cells, 3 to run" in outcome.err
    assert "3 run, 0 failed, 1 recorded before, 0 left" in outcome.err
    assert numbers(lab.results) == numbers(swept / "results")


def test_a_run_stopped_inside_a_sweep_keeps_its_checkpoint(
    experiments: Path, sweep: Command, lab: Lab, swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(experiments, "small")
    with monkeypatch.context() as patch:
        interrupt_at(Stepped, patch)
        stopped = sweep()
    assert stopped.code == 130
    assert "stopped after step 1 of 2" in stopped.err
    assert "0 run, 0 failed, 0 recorded before, 4 left" in stopped.err
    assert len(list(lab.results.glob("*/checkpoint.pt"))) == 1
    assert sweep().code == 0
    assert list(lab.results.glob("*/checkpoint.pt")) == []
    assert numbers(lab.results) == numbers(swept / "results")


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


def test_a_corrupt_record_is_run_again_and_kept_aside(whole: Path, sweep: Command, lab: Lab, swept: Path) -> None:
    path = sorted(lab.results.glob("*/record.json"))[0]
    path.write_text("{")
    states = sweep()
    assert states.code == 0
    assert f"warning: {path} cannot be used and its cell runs again" in states.err
    assert "1 run, 0 failed, 3 recorded before, 0 left" in states.err
    assert path.with_name("record.corrupt-1.json").read_text() == "{"
    assert numbers(lab.results) == numbers(swept / "results")


@pytest.mark.parametrize("verb", ["status", "table"])
def test_a_corrupt_record_is_reported(whole: Path, command: Command, lab: Lab, verb: str) -> None:
    path = sorted(lab.results.glob("*/record.json"))[0]
    path.write_text("{")
    other = sorted(lab.results.glob("*/record.json"))[1]
    other.write_text("{")
    outcome = command(verb, "table=small", f"records={lab.results}", "format=json")
    assert outcome.code == 0
    assert outcome.err.count("warning") == 1
    assert f"warning: {path} and 1 more cannot be used (its cell counts as missing; " in outcome.err
    assert "): corrupt: not JSON" in outcome.err
    json.loads(outcome.out)
    assert path.read_text() == "{"


def test_a_cell_whose_configuration_changed_is_stale(whole: Path, command: Command, lab: Lab, sweep: Command) -> None:
    """As if the scale in conf/method/lora.yaml had been another one when these records were made."""
    planned = plan_table("small").planned
    (cell,) = (one for one in planned if one.cell.labels["method"] == "LoRA" and one.cell.labels["seed"] == "1")
    shutil.rmtree(lab.results / cell.id)
    old = [*cell.cell.overrides, *lab.machine, "method.alpha=7"]
    run = replace(check_run(compose("config", old)), key=cell.key)
    execute(run, Bench(store=lab.store, stop=lambda: False, on_step=lambda *_: None))

    (state,) = json.loads(command("status", "table=small", f"records={lab.results}", "format=json").out)
    assert (state["ok"], state["stale"], state["missing"]) == (3, 1, 0)
    outcome = sweep()
    assert "1 run, 0 failed, 3 recorded before" in outcome.err
    (state,) = json.loads(command("status", "table=small", f"records={lab.results}", "format=json").out)
    assert (state["ok"], state["stale"]) == (4, 0)


def test_published_records_are_never_taken_for_this_machines(
    whole: Path, command: Command, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "published"
    monkeypatch.setattr(runners.publish, "PUBLISHED", published)
    outcome = command("publish", "table=small", f"records={lab.results}")
    assert outcome.code == 0
    assert sorted(file.name for file in (published / "small").iterdir()) == ["records", *(f"small.{f}" for f in FORMS)]
    asked = command("table", "table=small", f"records={published / 'small' / 'records'}", "format=json")
    assert asked.out == (published / "small" / "small.json").read_text()

    shutil.rmtree(lab.results)
    (state,) = json.loads(command("status", f"records={lab.results}", "format=json").out)
    assert state["missing"] == 4
    attempts: list[str] = []

    def refuse(run: Any, bench: Any) -> Record:
        attempts.append(run.id)
        raise KeyboardInterrupt

    monkeypatch.setattr(runners.work, "execute", refuse)
    stopped = command("sweep", "table=small", "launcher=inline", f"machine.results={lab.results}")
    assert stopped.code == 130
    assert "small: 4 cells, 4 to run" in stopped.err
    assert len(attempts) == 1


def test_publishing_without_records_is_an_error(experiments: Path, command: Command, lab: Lab) -> None:
    write_table(experiments, "small")
    outcome = command("publish", "table=small", f"records={lab.results}")
    assert outcome.code == 2
    assert "holds no record of table small" in outcome.err


def test_two_labels_that_mean_the_same_run_are_run_once(experiments: Path, sweep: Command, lab: Lab) -> None:
    same = {"One": ["method=lora", "method.rank=1"], "Same": ["method=lora", "method.rank=1", "method.alpha=1.0"]}
    write_table(experiments, "small", methods=same, seeds=[1])
    outcome = sweep()
    assert outcome.code == 0
    assert "small: 2 cells that are 1 run, 1 to run" in outcome.err
    assert len(lab.store.scan().records) == 1
    assert "1 run, 0 failed, 0 recorded before, 0 left" in outcome.err


def test_a_record_of_a_newer_version_is_neither_run_nor_replaced(whole: Path, sweep: Command, lab: Lab) -> None:
    records = lab.store.scan().records.values()
    path = write_newer(lab.store, next(record for record in records if record.key.method == "lora rank=1"))
    before = path.read_bytes()
    outcome = sweep("rerun=true", "where={method: [LoRA]}")
    assert "of a newer version and left alone" in outcome.err
    assert "small: 2 cells, 1 to run" in outcome.err
    assert path.read_bytes() == before


def test_several_tables_are_swept_at_once_and_what_they_share_once(
    experiments: Path, command: Command, lab: Lab
) -> None:
    write_table(experiments, "small", seeds=[1])
    write_table(experiments, "other", methods={"LoRA": TINY_METHODS["LoRA"]}, seeds=[1, 2])
    outcome = command("sweep", "table=[small,other]", "launcher=inline", *lab.machine)
    assert outcome.code == 0
    assert "small, other: 4 cells that are 3 runs, 3 to run" in outcome.err
    assert outcome.out.count("Small runs of") == 2
    assert len(lab.store.scan().records) == 3


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["format=json"], "format=json prints one table, and table= names several"),
        (["where={method: [LoRA]}"], "where= takes labels of one table"),
    ],
)
def test_what_goes_with_one_table_only_is_said(
    experiments: Path, command: Command, lab: Lab, asked: list[str], words: str
) -> None:
    for name in ("small", "other"):
        write_table(experiments, name)
    outcome = command("sweep", "table=[small,other]", "launcher=inline", *lab.machine, *asked)
    assert outcome.code == 2
    assert words in outcome.err


@pytest.mark.parametrize(
    ("asked", "words"),
    [("fail_fast=maybe", "fail_fast=maybe: valid: true or false"), ("table=[]", "table=[] names none")],
)
def test_what_a_sweep_is_asked_is_checked(experiments: Path, sweep: Command, asked: str, words: str) -> None:
    write_table(experiments, "small")
    outcome = sweep(asked)
    assert outcome.code == 2
    assert words in outcome.err


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


def interrupt_at(kind: type[Event], patch: pytest.MonkeyPatch) -> None:
    """Send SIGINT at the first event of a kind."""
    on_event = runners.sweep_progress.SweepProgress.on_event

    def interrupted(self: Any, worker: str, event: Event) -> None:
        on_event(self, worker, event)
        if isinstance(event, kind):
            signal.raise_signal(signal.SIGINT)

    patch.setattr(runners.sweep_progress.SweepProgress, "on_event", interrupted)


def numbers(results: Path) -> dict[str, dict[str, float]]:
    return {id: dict(record.metrics) for id, record in RecordStore(results).scan().records.items()}
