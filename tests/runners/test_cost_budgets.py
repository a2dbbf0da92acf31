"""From a benchmark of sizes to budgets of step time and memory, on the embedded backbone. No time is asserted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from lab import Outcome

from randlora.costs import read_costs
from randlora.execution import DEFAULT_EXECUTION
from randlora.features import features_of
from results import bench_record
from runners.cli import main
from runners.compose import compose
from runners.plan import check_run

Command = Callable[..., Outcome]
LABELS = ("frozen", "full", "lora_2", "lora_64", "vera_64", "dora_4", "randlora_8_weight", "randlora_48_rebuild")
MICRO = ("subjects=sizes", f"only=[{','.join(LABELS)}]", "rounds=3", "warmup=1", "threads=1", "seconds=0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small benchmark, with a fit."""
    folder = tmp_path_factory.mktemp("fitted")
    assert main(["bench", *MICRO, "workload.batch=4", "fit=true", f"to={folder}"]) == 0
    return folder


@pytest.fixture
def costs(folder: Path) -> str:
    return str(folder / "costs.json")


def rows_of(command: Command, *arguments: str) -> dict[str, dict[str, Any]]:
    outcome = command("budget", *arguments, "format=json")
    assert outcome.code == 0, outcome.err
    return {row["method"]: row for row in json.loads(outcome.out)}


def test_memory_is_predicted_within_a_few_percent(folder: Path) -> None:
    costs = read_costs(folder / "costs.json")
    assert set(costs.subjects) == set(LABELS) - {"frozen"} | {"lora_8"}  # a reference is always measured
    assert (costs.backbone, costs.work.sites, costs.case) == ("micro_clip", 24, "batch 4")
    assert costs.bytes.median_error < 0.02
    (case,) = bench_record.read(folder / "micro.json").cases
    run = check_run(compose("config", ["method=lora", "method.rank=64"]))
    features = features_of(run.solution.method, costs.work, DEFAULT_EXECUTION)
    measured = case.find("lora_64")
    assert features is not None
    assert measured is not None
    assert costs.bytes.predict(features) == pytest.approx(measured.memory.peak_bytes, rel=0.03)
    frozen = case.find("frozen")
    assert frozen is not None
    assert costs.bytes.constant + costs.bytes.usual == frozen.memory.peak_bytes


def test_the_table_and_the_picture_stand_beside_the_benchmark(folder: Path) -> None:
    text = (folder / "costs.md").read_text(encoding="utf-8")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert set(LABELS) - {"frozen"} <= set(lines)
    assert "frozen" not in lines
    assert "- step time: median error " in text
    assert "- peak memory: median error " in text
    assert (folder / "costs.png").read_bytes().startswith(b"\x89PNG")


def test_the_verb_and_the_runs_agree_on_memory(costs: str, command: Command) -> None:
    frozen = read_costs(costs).bytes
    goal = int(2 * (frozen.constant + frozen.usual))
    methods = ("lora", "dora", "full_ft", "peft")
    rows = rows_of(command, f"costs={costs}", f"memory={goal}", f"methods=[{','.join(methods)}]")
    for method in methods[:2]:
        overrides = [f"method={method}", "budget=memory", f"budget.costs={costs}", f"budget.bytes={goal}"]
        solution = check_run(compose("config", overrides)).solution
        row = rows[method]
        assert row["parameters"] == solution.reached
        assert row["size"] == f"rank {getattr(solution.method, 'rank')}"  # noqa: B009 - a field of some methods
        assert row["predicted"] <= goal
        assert solution.asked is None
        assert f"predicted {row['predicted'] / 1e6:,.1f} MB per step, median error" in str(solution.note)
    assert rows["full_ft"]["note"] == "no size to set, above the budget"
    assert (rows["peft"]["note"], rows["peft"]["parameters"]) == ("no prediction", None)


def test_a_reference_sets_the_cost(costs: str, command: Command) -> None:
    arguments = (f"costs={costs}", "match=lora", "rank=8", "methods=[lora,dora]")
    rows = rows_of(command, *arguments, "by=memory")
    assert rows["lora"]["size"] == "rank 8"
    assert rows["dora"]["note"].startswith("unreachable: at least ")
    # a time that more than one size may have: that of the reference is among them
    assert rows_of(command, *arguments, "by=step_time")["lora"]["parameters"] >= 8 * 17_664
    text = command("budget", *arguments, "by=memory").out
    assert "micro_clip: 24 sites; budget " in text
    assert " MB per step, as lora" in text
    assert "predictions: micro_clip, both towers, batch 4, float32, cpu: " in text
    assert "note: this machine" not in text


def test_another_machine_is_said(costs: str, tmp_path: Path, command: Command) -> None:
    body = json.loads(Path(costs).read_text(encoding="utf-8"))
    body["environment"]["device"] = "cuda: Another"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(body), encoding="utf-8")
    outcome = command("budget", f"costs={other}", "step_s=100", "methods=full_ft")
    assert outcome.code == 0
    assert "cuda: Another" in outcome.out
    assert "note: this machine is another: cpu: " in outcome.out


def test_identity_is_path_and_target(costs: str, tmp_path: Path) -> None:
    copy = shutil.copy(costs, tmp_path / "copy.json")

    def run_id(path: str | Path, seconds: float) -> str:
        overrides = ["method=full_ft", "budget=step_time", f"budget.costs={path}", f"budget.seconds={seconds}"]
        run = check_run(compose("config", overrides))
        assert run.config["budget"]["costs"] == str(path)
        return run.id

    assert run_id(costs, 100) == run_id(costs, 100)
    assert len({run_id(costs, 100), run_id(costs, 200), run_id(copy, 100)}) == 3


MISTAKES: Mapping[str, tuple[list[str], str]] = {
    "no file named": (["step_s=0.2"], "step_s=0.2 needs costs=PATH, a costs.json that randlora bench"),
    "no file there": (
        ["costs=nope.json", "memory=5MB"],
        "there is no costs file nope.json; make one with randlora bench",
    ),
    "file without a target": (["costs=COSTS"], "goes with step_s=, memory=, or match=METHOD by=step_time|memory"),
    "time": (["costs=COSTS", "step_s=-1"], "StepTimeBudget.seconds = -1; valid: a number above 0"),
    "memory": (["costs=COSTS", "memory=lots"], "bytes = 'lots'; valid: a number of bytes"),
    "two targets": (["costs=COSTS", "step_s=1", "memory=1MB"], "step_s= and memory=: give one target"),
    "by": (["costs=COSTS", "by=speed"], "by=speed: valid: by=step_time or by=memory, with match=METHOD"),
    "by without a match": (["costs=COSTS", "by=memory", "step_s=1"], "by=memory: valid: by=step_time or by=memory"),
    "reference": (["costs=COSTS", "match=peft", "by=memory"], "there is no prediction for Peft"),
    "backbone": (
        ["costs=COSTS", "step_s=1", "backbone=micro_clip_vision"],
        "was measured on 24 sites of micro_clip (micro_clip, both towers), and backbone=micro_clip_vision has ",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistakes_end_in_one_line(arguments: list[str], message: str, costs: str, command: Command) -> None:
    outcome = command("budget", *(one.replace("COSTS", costs) for one in arguments), "methods=lora")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit=maybe"], "fit=maybe: valid: true or false"),
        (["fit=true", "workload=crossover"], "fit=true fits one batch, and this workload has 20 cases"),
    ],
)
def test_mistakes_of_a_fit(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments, f"to={tmp_path / 'own'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


def test_a_fit_needs_the_frozen_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "subjects=sizes",
        "only=lora_2",
        "rounds=3",
        "warmup=1",
        "threads=1",
        "seconds=0.1",
        "workload.batch=2",
    ]
    assert main(["bench", *arguments, "fit=true", f"to={tmp_path}"]) == 2
    assert "fit=true needs the frozen model among the subjects" in capsys.readouterr().err
