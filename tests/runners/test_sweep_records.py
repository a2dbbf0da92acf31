"""Sweeps over records that cannot be used: corrupt, newer and outdated ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lab import Lab, Outcome, numbers
from made_records import write_newer

from runners.compose import compose
from runners.execute import Bench, execute
from runners.plan import check_run
from runners.tables import plan_table

Command = Callable[..., Outcome]


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


def test_a_record_of_a_newer_version_is_neither_run_nor_replaced(whole: Path, sweep: Command, lab: Lab) -> None:
    records = lab.store.scan().records.values()
    path = write_newer(lab.store, next(record for record in records if record.key.method == "lora rank=1"))
    before = path.read_bytes()
    outcome = sweep("rerun=true", "where={method: [LoRA]}")
    assert "of a newer version and left alone" in outcome.err
    assert "small: 2 cells, 1 to run" in outcome.err
    assert path.read_bytes() == before


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
