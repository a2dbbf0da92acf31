"""`randlora bench`: its files, its mistakes, its workloads and subjects. No time is asserted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from bench_lab import member, subjects
from configs import build, names

import runners.bench
from randlora.execution import Execution
from results import bench_record
from runners.benchmark.subjects import read_field
from runners.cli import main
from runners.compose import compose

SMALL = ("rounds=3", "warmup=1", "threads=1")
TINY_LLAMA = (
    "workload=llama_block",
    "workload.model.hidden_size=32",
    "workload.model.intermediate_size=96",
    "workload.model.num_attention_heads=4",
    "workload.model.num_key_value_heads=2",
    "workload.tokens=[8,16]",
    "workload.sequence=8",
)


def run(*arguments: str) -> int:
    return main(["bench", *arguments])


def test_files_hold_every_number_and_the_terminal_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(*SMALL, f"to={tmp_path}", "workload.batch=2", "only=[frozen,randlora]", "seconds=0.1")
    out = capsys.readouterr().out
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"micro.json", "micro.md", "micro.csv", "micro.png"}
    benchmark = bench_record.read(tmp_path / "micro.json")
    (case,) = benchmark.cases
    # the references are measured though they are not asked for
    assert [one.label for one in case.subjects] == ["frozen", "full", "lora", "randlora"]
    assert all(len(one.times_s) == 3 and min(one.times_s) > 0 for one in case.subjects)
    assert case.subjects[0].trained == 0
    assert case.sites == 24
    assert not case.left_out
    assert (tmp_path / "micro.md").read_text(encoding="utf-8") in out
    assert len((tmp_path / "micro.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert benchmark.environment.threads == 1
    assert (tmp_path / "micro.png").read_bytes().startswith(b"\x89PNG")


def test_decoder_layers_run_at_every_number_of_tokens(tmp_path: Path) -> None:
    none = "subjects.relative_to=[full]"
    lora = 'subjects.members={full:["method=full_ft"],lora:["method=lora","method.rank=2"]}'
    for precision in ("float32", "bfloat16_autocast", "bfloat16_weights"):
        assert (
            run(*SMALL, *TINY_LLAMA, f"to={tmp_path}", f"workload.precision={precision}", none, lora, "only=lora") == 0
        )
        benchmark = bench_record.read(tmp_path / "llama_block.json")
        assert [case.tokens for case in benchmark.cases] == [8, 16]
        small, large = benchmark.cases
        assert large.unit_flops == 2 * small.unit_flops
        # q, k, v, up, down: tokens x out x in
        assert small.unit_flops == 8 * (32 * 32 + 2 * 16 * 32 + 2 * 96 * 32)
        full = small.find("full")
        assert full is not None
        width = 2 if precision == "bfloat16_weights" else 4
        assert full.memory.trained_bytes == width * full.trained


def test_crossover_has_a_row_per_layer_and_number_of_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = ("workload=crossover", "workload.layers=[[24,16],[16,16]]", "workload.tokens=[4,64]")
    assert run(*SMALL, *layers, f"to={tmp_path}", "seconds=0.1") == 0
    out = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {f"crossover.{end}" for end in ("json", "md", "csv", "png")}
    for layer in ("24 x 16", "16 x 16"):
        assert [line.split("|")[2].strip() for line in out.splitlines() if line.startswith(f"| {layer}")] == ["4", "64"]
        assert f"- {layer}, by tokens: faster is " in out
    assert "auto is slowest at " in out


def test_compiled_rows_stand_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the eager backend: what is tested is the row, not the compiler
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend="eager"))
    layers = ("workload=crossover", "workload.layers=[[24,16]]", "workload.tokens=[4]")
    assert run(*SMALL, *layers, f"to={tmp_path}", "only=full", "compile=full") == 0
    plain, compiled = bench_record.read(tmp_path / "crossover.json").cases[0].subjects
    assert (plain.label, plain.compiled, plain.graph_breaks) == ("full", False, None)
    assert (compiled.label, compiled.compiled, compiled.graph_breaks) == ("full_compiled", True, 0)
    assert compiled.flops == plain.flops


def test_publishing_writes_beside_the_published_results_and_fills_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "PAGE.md"
    page.write_text("before\n<!-- bench: crossover -->\n<!-- end of bench -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(runners.bench, "PAGE", page)
    monkeypatch.setattr(runners.bench, "PUBLISHED", tmp_path / "published")
    layers = ("workload=crossover", "workload.layers=[[24,16]]", "workload.tokens=[4]")
    assert run(*SMALL, *layers, f"to={tmp_path / 'own'}", "publish=true") == 0
    table = (tmp_path / "published" / "crossover" / "crossover.md").read_text(encoding="utf-8")
    assert table == (tmp_path / "own" / "crossover.md").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert table.strip() in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_nothing_measured_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = member("large", "method=lora", "method.rank=193")
    none = ("subjects.relative_to=[]", "subjects.memory_relative_to=null")
    assert run(*SMALL, f"to={tmp_path}", "workload.batch=2", large, "only=large", *none) == 1
    assert "error: nothing could be measured: large: ValueError: LoRA: rank 193 does not fit" in capsys.readouterr().err


MISTAKES: Mapping[str, tuple[list[str], str]] = {
    "workload": (["workload=nope"], "workload=nope: there is no such workload; valid: crossover, llama_block"),
    "subjects": (["subjects=nope"], "subjects=nope: there is no such subjects; valid: against_peft"),
    "label": (["only=[lora,lorra]"], "only=lorra: there is no such subject; valid: frozen, full, lora"),
    "reference": (["subjects.relative_to=nope"], "subjects.relative_to=nope: there is no such subject"),
    "compiled label": (["compile=[nope]"], "compile=nope: there is no such subject"),
    "override of a subject": (
        [member("mine", "method=lora", "method.rnak=2"), "only=mine"],
        "subject mine: unknown key 'method.rnak'; did you mean method.rank?",
    ),
    "method of a subject": ([member("mine", "method=lorra")], "subject mine: method=lorra: there is no such"),
    "value of a subject": ([member("mine", "method=lora", "method.rank=0")], "subject mine: method: LoRA.rank = 0"),
    "micro-batches": ([member("mine", "micro_batches=0")], "subject mine: micro_batches=0: valid: a whole"),
    "rounds": (["rounds=0"], "rounds=0: valid: a whole number of 1 or more"),
    "warm-up": (["warmup=0"], "warmup=0: valid: a whole number of 1 or more"),
    "seconds": (["seconds=-1"], "seconds=-1: valid: a number above 0"),
    "threads": (["threads=0"], "threads=0: valid: a whole number of 1 or more, or null"),
    "device": (["device=tpu"], "device=tpu: valid: auto, cpu, cuda"),
    "publish": (["publish=maybe"], "publish=maybe: valid: true or false"),
    "name": (["name=a/b"], "name=a/b: valid: letters, digits"),
    "precision": (["workload.precision=half"], "Towers.precision = 'half'; valid: 'float32'"),
    "part": (["workload.part=vision", "workload.text=false"], "has no part 'vision'; its parts are: visual"),
    "part with text": (["workload.part=visual"], "runs on images alone; set text to false"),
    "sites": (["workload.sites=[q_proj.weight]"], "target 'q_proj.weight' matched none of the"),
    "tokens": (["workload=llama_block", "workload.tokens=[1500]"], "1500 tokens are no whole number of sequences"),
    "token list": (["workload=crossover", "workload.tokens=[]"], "LinearLayers.tokens = []; valid: a list of whole"),
    "layer": (["workload=crossover", "workload.layers=[[3]]"], "LinearLayers.layers: [3]; valid: pairs"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(*arguments, f"to={tmp_path / 'own'}")
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "own").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("device=cuda") == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("name", names("workload"))
def test_every_workload_composes_with_its_subjects(name: str) -> None:
    config = compose("bench", [f"workload={name}"])
    field = read_field(config.subjects, only=None, compiled=True)
    assert {*field.relative_to, field.memory_relative_to} <= {None, *(one.label for one in field.subjects)}
    assert any(one.compile for one in field.subjects)
    states = {key for key in config.workload if key != "_target_"}
    workload = runners.bench.instantiate(config)["workload"]
    assert states == {one.name for one in dataclasses.fields(workload)}
    assert workload.cases()


@pytest.mark.parametrize("name", names("subjects"))
def test_every_list_of_subjects_composes(name: str) -> None:
    field = read_field(compose("bench", [f"subjects={name}"]).subjects, only=None, compiled=True)
    assert len({one.label for one in field.subjects}) == len(field.subjects) > 2


def test_the_subject_file_states_every_field_of_the_execution() -> None:
    stated = compose("bench_subject", []).execution
    assert {key for key in stated if key != "_target_"} == {one.name for one in dataclasses.fields(Execution)}


def test_the_document_is_json_that_reads_back(tmp_path: Path) -> None:
    layers = ("workload=crossover", "workload.layers=[[24,16]]", "workload.tokens=[4]")
    assert run(*SMALL, *layers, f"to={tmp_path}", "only=full") == 0
    path = tmp_path / "crossover.json"
    benchmark = bench_record.read(path)
    assert bench_record.to_json(benchmark) == path.read_text(encoding="utf-8")
    body = json.loads(path.read_text(encoding="utf-8"))
    assert body["workload"]["tokens"] == [4]
    assert body["cases"][0]["subjects"][0]["config"]["method"]["_target_"].startswith("randlora.methods.")


def test_a_subject_on_the_command_line_is_the_method_of_its_file() -> None:
    assert subjects(mine=["method=lora"]).subjects[0].method == build("method", "lora")
