"""A table whose cells share runs: each is run, planned, counted and published once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import TINY_METHODS, Lab, Outcome, write_table

import runners.publish

Command = Callable[..., Outcome]


@pytest.fixture
def shared(experiments: Path) -> Path:
    """A table of two methods, two seeds and two metrics: eight cells of three runs, since one method draws nothing."""
    write_table(experiments, "small", methods={"Zero-shot": ["method=zero_shot"], "VeRA": TINY_METHODS["VeRA"]})
    file = experiments / "small.yaml"
    table = json.loads(file.read_text())
    table["metric"] = "{part}/top1"
    table["axes"]["part"] = {"Test": ["metric.part=test"], "Validation": ["metric.part=validation"]}
    table["columns"] = ["dataset", "part"]
    table["also"] = [{"where": {"method": ["Zero-shot"]}, "overrides": ["seed=1"]}]
    file.write_text(json.dumps(table))
    return file


def test_what_is_one_run_is_run_and_counted_once(
    shared: Path, command: Command, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = command("plan", "table=small", *lab.machine, "format=json")
    assert planned.code == 0, planned.err
    assert {row["method"]: row["cells"] for row in json.loads(planned.out)["rows"]} == {"Zero-shot": 1, "VeRA": 2}
    first = command("sweep", "table=small", "launcher=inline", *lab.machine, "format=json")
    assert "small: 8 cells that are 3 runs, 3 to run" in first.err
    assert "3 run, 0 failed, 0 recorded before, 0 left" in first.err
    assert len(lab.store.scan().records) == 3
    again = command("sweep", "table=small", "launcher=inline", *lab.machine)
    assert "small: 8 cells that are 3 runs, 0 to run" in again.err
    assert "0 run, 0 failed, 3 recorded before, 0 left" in again.err

    document = json.loads(first.out)
    entries = {
        (row["labels"]["method"], entry["columns"]["part"]): entry
        for row in document["rows"]
        for entry in row["entries"]
    }
    zero, vera = entries["Zero-shot", "Test"], entries["VeRA", "Test"]
    assert (zero["state"], zero["n"], zero["std"]) == ("ok", 1, None)
    assert (vera["state"], vera["n"]) == ("ok", 2)
    # these runs have no validation metric: the table says so and counts none of them as complete
    assert {entries[method, "Validation"]["state"] for method in ("Zero-shot", "VeRA")} == {"failed"}
    assert document["coverage"]["by_state"]["failed"] == document["coverage"]["total"] == 3

    status = command("status", "table=small", f"records={lab.results}", "format=json")
    (line,) = json.loads(status.out)
    assert (line["cells"], line["failed"]) == (3, 3)
    monkeypatch.setattr(runners.publish, "PUBLISHED", tmp_path / "published")
    published = command("publish", "table=small", f"records={lab.results}")
    assert published.out.startswith("3 of 3 records in")
