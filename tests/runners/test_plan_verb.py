"""`randlora plan`: what it says of small tables, beside what their runs record."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from lab import ROOT, Lab, write_table

from results.record import Record
from results.store import RecordStore
from runners.compose import compose, instantiate_part

HALF = 0.5
PEFT = ["method=peft", "method.peft_type=LORA", "backbone.targets=[mlp.c_fc.weight]"]


def planned(command: Command, *overrides: str) -> dict[str, Any]:
    outcome = command("plan", "table=small", "format=json", *overrides)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.fixture(scope="module")
def records(swept: Path) -> list[Record]:
    return list(RecordStore(swept / "results").scan().records.values())


@pytest.fixture
def done(swept: Path, images: Path, experiments: Path) -> Lab:
    """A lab in which every cell of the table ``small`` is recorded."""
    write_table(experiments, "small")
    return Lab(results=swept / "results", images=images)


def test_a_plan_says_of_a_table_what_its_runs_record(command: Command, done: Lab, records: list[Record]) -> None:
    plan = planned(command, *done.machine)
    for row in plan["rows"]:
        own = [one for one in records if one.key.method.startswith(row["method"].lower())]
        assert len(own) == row["cells"] == row["ok"] == 2
        for record in own:
            assert record.parameters is not None
            assert record.timing is not None
            assert row["parameters"] == record.parameters.adapter
            assert row["steps_most"] == record.timing.steps
        assert row["steps_left"] == row["train_flops_left"] == 0
        assert row["train_flops"] > 0
        assert row["peak_bytes"] > row["peak_frozen_bytes"] > 0
    total = plan["total"]
    assert total["steps"] == sum(one.timing.steps for one in records if one.timing)


def test_hours_are_those_of_the_runs_that_are_done(
    command: Command, done: Lab, records: list[Record], tmp_path: Path
) -> None:
    store = RecordStore(tmp_path / "timed")
    for record in records:
        assert record.timing is not None
        timing = replace(record.timing, step_median_s=0.25, eval_s=3.0)
        store.write(replace(record, timing=timing))
    plan = planned(command, *done.machine, f"machine.results={store.root}")
    for row in plan["rows"]:
        assert row["rate_source"] == "own runs"
        assert row["train_s"] == pytest.approx(0.25 * row["steps"])
        assert row["eval_s"] == pytest.approx(3.0 * row["cells"])
        assert row["train_s_left"] == row["eval_s_left"] == 0


def test_what_is_missing_is_left(command: Command, lab: Lab, experiments: Path) -> None:
    write_table(experiments, "small")
    machine = [*lab.machine, f"machine.prepared_root={lab.results}"]
    plan = planned(command, *machine)
    for row in plan["rows"]:
        assert (row["missing"], row["ok"]) == (2, 0)
        assert row["steps"] == row["steps_left"] == 4
        assert row["train_flops"] == row["train_flops_left"] > 0
        assert row["train_s"] is None
    assert plan["throughput"] is None
    assert [one["state"] for one in plan["datasets"]] == ["here"]
    assert [one["missing"] for one in plan["weights"]] == [None]
    text = command("plan", "table=small", *machine).out
    assert "4 cells: 0 ok, 4 missing" in text
    assert "hours: none without a measurement" in text
    assert "randlora data prepare dataset=pets3" in text


def test_a_rate_that_is_given_makes_hours(command: Command, lab: Lab, experiments: Path) -> None:
    write_table(experiments, "small")
    plan, faster = (planned(command, *lab.machine, f"flops_per_s={rate}") for rate in ("1e9", "2e9"))
    for row, other in zip(plan["rows"], faster["rows"], strict=True):
        assert row["train_s"] == pytest.approx(row["train_flops"] / 1e9)
        assert row["eval_s"] == pytest.approx(row["eval_flops"] / 1e9)
        assert other["train_s"] == pytest.approx(HALF * row["train_s"])
        assert row["rate_source"] == "as given"


def test_a_benchmark_makes_hours(command: Command, lab: Lab, experiments: Path, tmp_path: Path) -> None:
    write_table(experiments, "small")
    folder = tmp_path / "bench"
    bench = ["workload.batch=2", "only=[lora]", "rounds=3", "seconds=1", "warmup=1", "device=cpu", f"to={folder}"]
    assert command("bench", *bench, "name=mine").code == 0
    measured = json.loads((folder / "mine.json").read_text())
    rates = [
        one["flops"] / sorted(one["times_s"])[len(one["times_s"]) // 2]
        for case in measured["cases"]
        for one in case["subjects"]
        if one["label"] == "lora"
    ]
    plan = planned(command, *lab.machine, "device=cpu", f"throughput={folder / 'mine.json'}")
    row = next(row for row in plan["rows"] if row["method"] == "LoRA")
    assert row["rate_source"] == "benchmark of its kind"
    # attention is not counted where torch has no formula for it, in the benchmark as in the plan
    assert HALF * row["train_flops"] / rates[0] < row["train_s"] < row["train_flops"] / rates[0]
    outcome = command("plan", "table=small", *lab.machine, "device=cuda", f"throughput={folder / 'mine.json'}")
    assert outcome.code == 2
    assert "planned for cuda in bfloat16; use device=cpu precision=float32" in outcome.err


def test_a_gpu_that_is_not_here_can_be_planned_for(command: Command, lab: Lab, experiments: Path) -> None:
    write_table(experiments, "small")
    gpu = planned(command, *lab.machine, "device=cuda")
    assert (gpu["device"], gpu["precision"]) == ("cuda", "bfloat16")
    cpu = planned(command, *lab.machine, "device=cpu", "precision=bfloat16")
    for one, other in zip(gpu["rows"], cpu["rows"], strict=True):
        assert one["peak_kept_bytes"] > other["peak_kept_bytes"]
        assert one["train_flops"] == other["train_flops"]


def test_a_method_that_cannot_be_predicted_keeps_the_rest(command: Command, lab: Lab, experiments: Path) -> None:
    methods = {"LoRA": ["method=lora", "method.rank=1"], "peft": PEFT}
    write_table(experiments, "small", methods=methods)
    outcome = command("plan", "table=small", "format=json", *lab.machine)
    assert outcome.code == 1
    known, unknown = json.loads(outcome.out)["rows"]
    assert known["problem"] is None
    assert known["peak_bytes"] > 0
    assert unknown["problem"].startswith("Peft: ")
    assert unknown["peak_bytes"] is unknown["train_flops"] is None
    assert unknown["steps"] == 4


@pytest.mark.parametrize("ending", ["md", "csv", "json"])
def test_a_plan_is_written_where_it_is_asked_for(
    command: Command, lab: Lab, experiments: Path, tmp_path: Path, ending: str
) -> None:
    write_table(experiments, "small")
    path = tmp_path / f"plan.{ending}"
    outcome = command("plan", "table=small", *lab.machine, f"to={path}")
    assert outcome.code == 0
    assert str(path) in outcome.err
    text = path.read_text()
    if ending == "json":
        assert len(json.loads(text)["rows"]) == 2
    elif ending == "csv":
        assert [row["method"] for row in csv.DictReader(text.splitlines())] == ["LoRA", "VeRA"]
    else:
        assert "| LoRA" in text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "give table=…"),
        (["table=smal"], "no table 'smal'"),
        (["table=small", "device=tpu"], "device=tpu: valid: auto, cpu, cuda"),
        (["table=small", "precision=float16"], "precision=float16: valid: auto, float32, bfloat16"),
        (["table=small", "flops_per_s=-1"], "flops_per_s=-1: valid: a number above 0"),
        (["table=small", "flops_per_s=1e12", "throughput=x.json"], "two answers to one question"),
        (["table=small", "throughput=nowhere.json"], "cannot read nowhere.json as a benchmark"),
        (["table=small", "to=plan.txt"], "to=plan.txt: valid: a file that ends in .md, .csv, .json"),
        (["table=small", "format=pdf"], "format=pdf: valid: text, markdown, csv, json"),
        (["table=small", "speed=3"], "unknown key 'speed'"),
    ],
)
def test_a_mistake_is_one_line(command: Command, experiments: Path, overrides: list[str], words: str) -> None:
    write_table(experiments, "small")
    outcome = command("plan", *overrides)
    assert outcome.code == 2
    assert outcome.out == ""
    assert words in outcome.err.strip().splitlines()[-1]


def test_weights_that_are_in_the_cache_of_the_hub_are_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("randlora.backbones.clip.OPEN_CLIP_CACHE", tmp_path / "open_clip")
    repositories = {
        "clip_vit_b32": "timm--vit_base_patch32_clip_224.openai",
        "dinov2_vit_b14": "timm--vit_base_patch14_dinov2.lvd142m",
        "qwen2_0_5b": "Qwen--Qwen2-0.5B-Instruct",
    }
    for name, repository in repositories.items():
        backbone = instantiate_part("backbone", compose("config", [f"backbone={name}"]).backbone)
        missing = backbone.missing_weights(root=tmp_path)
        assert missing is not None
        assert repository.replace("--", "/") in missing
        folder = cache / f"models--{repository}" / "snapshots" / (getattr(backbone, "revision", None) or "abc")
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        assert backbone.missing_weights(root=tmp_path) is not None
        (folder / "model.safetensors").touch()
        assert backbone.missing_weights(root=tmp_path) is None
        absent = replace(backbone, checkpoint="nowhere.pt")
        assert "nowhere.pt" in absent.missing_weights(root=tmp_path)


def test_the_page_shows_the_published_predictions_beside_the_papers_numbers() -> None:
    published = ROOT / "results" / "published" / "plan"
    kept, rebuilt = (gigabytes(published / f"{name}.csv") for name in ("peak_memory", "peak_memory_rebuild"))
    page = (ROOT / "docs" / "PLANNING.md").read_text(encoding="utf-8")
    lines = page.partition("<!-- memory -->")[2].partition("<!-- /memory -->")[0].strip().splitlines()
    shown = {
        cells[0]: cells[1:] for line in lines[2:] if (cells := [one.strip() for one in line.strip("|").split("|")])
    }
    with (ROOT / "results" / "paper" / "vram_gb.csv").open(encoding="utf-8") as file:
        paper = {row[""]: row for row in csv.DictReader(file)}
    assert shown.keys() == paper.keys()
    for model, cells in shown.items():
        methods = ("RandLoRA", "NoLA", "VeRA", "LoRA-32", "FT")
        pairs = [(paper[model][one].split()[0], f"{kept[f'{model} / {one}']:.1f}") for one in methods]
        assert cells == [*(cell for pair in pairs for cell in pair), f"{rebuilt[f'{model} / RandLoRA']:.1f}"]


def gigabytes(path: Path) -> dict[str, float]:
    with path.open(encoding="utf-8") as file:
        return {row["method"]: int(row["peak_bytes"]) / 1e9 for row in csv.DictReader(file)}
