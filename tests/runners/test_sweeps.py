"""Sweeps over a table of four small runs: what is run, what is not, and what is said about it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import TINY_METHODS, Lab, Outcome, numbers, write_table

import runners.publish
import runners.sweep_progress
import runners.work
from results.record import Record
from results.store import RecordStore
from runners.events import Event, Recorded, Stepped

Command = Callable[..., Outcome]
FORMS = ["csv", "json", "md", "png", "tex"]


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


def interrupt_at(kind: type[Event], patch: pytest.MonkeyPatch) -> None:
    """Send SIGINT at the first event of a kind."""
    on_event = runners.sweep_progress.SweepProgress.on_event

    def interrupted(self: Any, worker: str, event: Event) -> None:
        on_event(self, worker, event)
        if isinstance(event, kind):
            signal.raise_signal(signal.SIGINT)

    patch.setattr(runners.sweep_progress.SweepProgress, "on_event", interrupted)
