"""Curves as JSON lines, and Weights & Biases that never stops a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from lab import STEPS, Lab, Outcome

from runners.loggers import JsonLinesLog

LORA = ("method=lora", "method.rank=1")


def test_curves_have_a_line_per_reported_step(lab: Lab) -> None:
    run = lab.run(*LORA)
    lab.execute(run)
    lines = [json.loads(line) for line in lab.file(run, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(set(line) == {"step", "elapsed_s", "loss", "learning_rate"} for line in lines)
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == pytest.approx(1e-3)
    assert rates == sorted(rates, reverse=True)
    assert all(line["loss"] > 0 for line in lines)


def test_a_rerun_starts_its_curves_anew(lab: Lab, command: Callable[..., Outcome]) -> None:
    run = lab.run(*LORA)
    for extra in ([], ["rerun=true"]):
        assert command("run", *lab.overrides(*LORA, *extra)).code == 0
        assert lab.logged(run) == list(range(1, STEPS + 1))


def test_a_continued_log_replaces_what_comes_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    first = JsonLinesLog(path)
    for step in (1, 2, 3, 4):
        first.step(step, {"loss": 1.0})
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # killed while it wrote
    second = JsonLinesLog(path)
    for step in (3, 4):
        second.step(step, {"loss": 2.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_wandb_offline_writes_a_folder_to_sync(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    run = lab.run(*LORA, "logger=wandb", "recipe.max_steps=2")
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    (folder,) = lab.file(run, "wandb").glob("offline-run-*")
    assert folder.name.endswith(run.id)
    assert list(folder.glob("*.wandb"))
    assert lab.logged(run) == [1, 2]
    assert wandb.run is None


class Outage:
    """A wandb run that fails where it is told to."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.summary: dict[str, Any] = {}
        self.logged: list[int] = []

    def log(self, values: dict[str, float], *, step: int) -> None:
        if self.at == "log" and step > 1:
            raise ConnectionError("no route to host")
        self.logged.append(step)

    def finish(self, exit_code: int) -> None:
        if self.at == "finish":
            raise ConnectionError("no route to host")


@pytest.mark.parametrize("at", ["init", "log", "finish"])
def test_an_outage_of_wandb_only_warns(
    lab: Lab, at: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outage = Outage(at)

    def init(**_: object) -> Outage:
        if at == "init":
            raise ConnectionError("no route to host")
        return outage

    monkeypatch.setattr(wandb, "init", init)
    run = lab.run(*LORA, "logger=wandb")
    assert lab.execute(run).status == "ok"
    assert lab.logged(run) == list(range(1, STEPS + 1))
    err = capsys.readouterr().err
    assert err.count("warning: wandb is out (ConnectionError: no route to host)") == 1
    assert outage.logged == {"init": [], "log": [1], "finish": [1, 2, 3, 4]}[at]


def test_the_record_and_the_metrics_reach_wandb(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy, given = Outage("never"), {}

    def init(**arguments: object) -> Outage:
        given.update(arguments)
        return healthy

    monkeypatch.setattr(wandb, "init", init)
    run = lab.run(*LORA, "logger=wandb")
    record = lab.execute(run)
    assert given["id"] == given["name"] == run.id
    assert given["mode"] == "offline"
    assert given["config"] == run.config
    assert healthy.summary["record"]["id"] == run.id
    assert healthy.summary["test/top1"] == record.metrics["test/top1"]
