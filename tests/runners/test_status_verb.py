"""The verb status: counts, and what it tells of failed, stale and running runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, Outcome, write_table
from made_records import changed, failed, made_records, write_newer

import runners.identities
import runners.tables
from results.claims import Claims
from results.record import Failure
from results.store import RecordStore
from runners.compose import compose_parts

Command = Callable[..., Outcome]
METHODS = {"LoRA": ["method=lora", "method.rank=1"], "VeRA": ["method=vera", "method.rank=4"]}


@pytest.fixture
def store(experiments: Path, tmp_path: Path) -> RecordStore:
    """The table ``small`` of LoRA and VeRA with two seeds: ok, failed, stale and missing."""
    write_table(experiments, "small", methods=METHODS)
    store, made = RecordStore(tmp_path / "records"), made_records("small")
    store.write(made["LoRA", "1"])
    failure = Failure(kind="diverged", step=5, steps=40)
    store.write(failed(made["LoRA", "2"], failure, "DivergenceError: the loss is nan at step 5 of 40"))
    store.write(changed(made["VeRA", "1"], "method", alpha=7.0, basis_scale=None))
    return store


@pytest.fixture
def status(command: Command, store: RecordStore) -> Command:
    return lambda *arguments: command("status", f"records={store.root}", *arguments)


def document(outcome: Outcome) -> Any:
    assert outcome.code == 0
    return json.loads(outcome.out)


def test_every_state_is_counted(status: Command, store: RecordStore) -> None:
    (row,) = document(status("format=json"))
    states = {"ok": 1, "missing": 1, "failed": 1, "running": 0, "stale": 1, "skipped": 0}
    assert row == {"table": "small", "cells": 4, **states}
    text = status().out
    assert "1 failed (1 diverged): randlora status --failed says why" in text
    assert "randlora status --stale" in text
    assert "--running" not in text


def test_a_run_that_is_claimed_is_running(status: Command, store: RecordStore) -> None:
    made = made_records("small")
    for labels in (("VeRA", "2"), ("LoRA", "1")):
        assert Claims(store.root, worker="worker 1").take(made[labels].id)
    curves = store.folder(made["VeRA", "2"].id) / "metrics.jsonl"
    curves.parent.mkdir()
    curves.write_text('{"step": 1, "loss": 2.0}\n{"step": 12, "loss": 2.0}\n{"step": 1')

    (row,) = document(status("format=json"))
    # one that is ok and carried out once more stays ok
    assert (row["ok"], row["missing"], row["running"]) == (1, 0, 1)
    blocks = {block["run"]: block for block in document(status("--running", "format=json"))["running"]}
    block = blocks[made["VeRA", "2"].id]
    assert (block["pid"], block["step"], block["worker"]) == (os.getpid(), 12, "worker 1")
    assert block["places"] == [{"table": "small", "labels": {"dataset": "Pets-3", "method": "VeRA", "seed": "2"}}]
    text = status("--running").out
    assert "table small: dataset Pets-3, method VeRA, seed 2" in text
    assert f"process {os.getpid()} (worker 1)" in text
    assert "state   step 12" in text


def test_the_claim_of_a_process_that_is_gone_is_not_running(status: Command, store: RecordStore) -> None:
    id = made_records("small")["VeRA", "2"].id
    code = (
        f"from results.claims import Claims; from pathlib import Path; Claims(Path({str(store.root)!r})).take({id!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    (row,) = document(status("format=json"))
    assert (row["missing"], row["running"]) == (1, 0)
    assert "its process is gone; the next sweep takes it over" in status("--running").out


def test_failed_runs_say_why(status: Command, store: RecordStore) -> None:
    id = made_records("small")["LoRA", "2"].id
    (store.folder(id) / "log.txt").write_text("only the log\n")
    (block,) = document(status("--failed", "format=json"))["failed"]
    assert (block["run"], block["kind"], block["step"], block["steps"]) == (id, "diverged", 5, 40)
    assert block["tail"] == ["only the log"]
    (store.folder(id) / "failure.txt").write_text("".join(f"line {number}\n" for number in range(30)))
    (block,) = document(status("failed=true", "format=json"))["failed"]
    assert block["tail"] == [f"line {number}" for number in range(20, 30)]
    assert block["log"] == str(store.folder(id) / "failure.txt")

    text = status("--failed").out
    assert "table small: dataset Pets-3, method LoRA, seed 2" in text
    assert "why     diverged at step 5 of 40" in text
    assert "reason  DivergenceError: the loss is nan" in text
    assert "| line 29" in text
    assert f"randlora sweep table=small retry=failed machine.results={store.root}" in text


def test_older_records_have_a_reason_alone(status: Command, store: RecordStore) -> None:
    record = made_records("small")["LoRA", "2"]
    store.write(failed(record, None, "ValueError: something"))
    (block,) = document(status("--failed", "format=json"))["failed"]
    assert (block["kind"], block["log"], block["reason"]) == (None, None, "ValueError: something")
    assert "none was kept" in status("--failed").out


def test_failed_runs_of_no_table_are_told_unless_a_table_is_chosen(status: Command, store: RecordStore) -> None:
    other = changed(made_records("small")["LoRA", "1"], "method", rank=99)
    other = replace(other, key=replace(other.key, method="lora rank=99"))
    store.write(failed(other, None, "why"))
    assert f"run     {other.id}" in status("--failed").out
    assert "method lora rank=99" in status("--failed").out
    assert other.id not in status("--failed", "table=small").out


def test_stale_runs_say_what_has_changed(status: Command, store: RecordStore) -> None:
    record = made_records("small")["VeRA", "1"]
    (block,) = document(status("--stale", "format=json"))["stale"]
    assert block["run"] == record.id
    assert block["old"] == changed(record, "method", alpha=7.0, basis_scale=None).id
    assert block["changes"] == [
        {"field": "method.alpha", "old": 7.0, "new": record.config["method"]["alpha"]},
        {"field": "method.basis_scale", "new": record.config["method"]["basis_scale"]},
    ]
    text = status("--stale").out
    assert f"  method.alpha: 7.0 -> {record.config['method']['alpha']}\n" in text
    assert f'  method.basis_scale: absent -> "{record.config["method"]["basis_scale"]}"\n' in text


def test_there_may_be_nothing_to_tell(command: Command, experiments: Path, tmp_path: Path) -> None:
    write_table(experiments, "small")
    outcome = command("status", f"records={tmp_path / 'none'}", "--failed", "--stale", "--running")
    assert outcome.out == "nothing has failed\n\nnothing is stale\n\nnothing is running\n"
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_read_is_reported(status: Command, store: RecordStore) -> None:
    made = made_records("small")
    corrupt = store.folder(made["LoRA", "1"].id) / "record.json"
    corrupt.write_text("{")
    newer = write_newer(store, made["VeRA", "2"])
    outcome = status("format=json")
    (row,) = document(outcome)
    assert (row["ok"], row["missing"]) == (0, 2)
    broken, later = outcome.err.splitlines()
    assert f"{corrupt} cannot be used" in broken
    assert f"record of {newer.parent.name} is of a newer version" in later
    assert "update this checkout" in later


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--faild"], "valid: --failed, --stale, --running, --help, --multirun"),
        (["--failed=true"], "has no --failed=true"),
        (["--failed", "format=csv"], "format=csv is for the counts"),
    ],
)
def test_what_cannot_be_meant(status: Command, arguments: list[str], message: str) -> None:
    outcome = status(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_planned_runs_are_kept_until_something_changes(
    status: Command, store: RecordStore, experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed: list[int] = []

    def counted(name: str, jobs: list[Any]) -> Any:
        composed.append(len(jobs))
        return compose_parts(name, jobs)

    monkeypatch.setattr(runners.tables, "compose_parts", counted)
    first = document(status("format=json"))
    assert composed == [4]
    assert document(status("format=json")) == first
    assert composed == [4]
    # another table, of which two runs are known; then other code
    write_table(experiments, "small", methods=METHODS, seeds=[2, 3])
    assert document(status("format=json"))[0]["cells"] == 4
    assert composed == [4, 2]
    monkeypatch.setattr(runners.identities, "_version", lambda: "planned runs of other code")
    status()
    assert composed == [4, 2, 4]
    # and a file that is damaged
    kept = store.root / ".planned"
    kept.write_bytes(kept.read_bytes()[:-1])
    status()
    assert composed == [4, 2, 4, 4]
