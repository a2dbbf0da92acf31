"""`randlora bench`: counts against hand computation, subjects that cannot run, files, mistakes. No time is asserted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import CONF, ROOT, build, names
from torch import nn

import runners.bench
from randlora.adapter import Targets
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import Adaptation
from results import bench_record
from results.bench_record import CaseResult
from results.bench_tables import counted_units
from runners.benchmark.cases import Case
from runners.benchmark.layers import LayerCase
from runners.benchmark.measure import Protocol, measure
from runners.benchmark.memory import measure_memory
from runners.benchmark.step import TrainingStep
from runners.benchmark.subjects import Field, Subject, read_field
from runners.benchmark.timing import interleave
from runners.cli import main
from runners.compose import compose

ROWS, COLUMNS, TOKENS = 64, 48, 32
FLOAT = 4
CPU = torch.device("cpu")
LAYER = LayerCase(name="layer", precision="float32", layer=(ROWS, COLUMNS), tokens=TOKENS)
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


class TanhCase(LayerCase):
    """A layer whose output goes through tanh, which keeps what it returns for the backward pass."""

    def build(self, *, device: torch.device, seed: int) -> nn.Module:
        return nn.Sequential(*super().build(device=device, seed=seed), nn.Tanh())


def member(label: str, *overrides: str) -> str:
    return f"+subjects.members.{label}={json.dumps(list(overrides))}"


def subjects(*labels: str, **extra: list[str]) -> Field:
    """Return the subjects of `conf/subjects/forms.yaml` with these labels, and others by their overrides."""
    config = compose("bench", ["subjects=forms", *(member(label, *own) for label, own in extra.items())])
    config.subjects.relative_to = []
    return read_field(config.subjects, only=[*labels, *extra], compiled=False)


def step_of(field: Field, case: Case = LAYER) -> TrainingStep:
    base = case.build(device=CPU, seed=1)
    return TrainingStep(case, base, field.subjects[0], inputs=case.inputs(base, device=CPU, seed=1), seed=1)


def measured(field: Field, case: Case = LAYER, *, rounds: int = 1) -> CaseResult:
    protocol = Protocol(device=CPU, seed=1, warmup=1, rounds=rounds, seconds=60.0)
    return measure(case, field, protocol, on_stage=lambda *_: None)


# ---------------------------------------------------------------------------------------------------- what is counted


def test_memory_of_a_frozen_layer_is_what_a_hand_computes() -> None:
    step = step_of(subjects("frozen"))
    step()
    memory = measure_memory(step)
    output, loss = TOKENS * ROWS * FLOAT, FLOAT
    assert memory.frozen_bytes == ROWS * COLUMNS * FLOAT
    assert memory.input_bytes == TOKENS * (COLUMNS + ROWS) * FLOAT
    assert (memory.trained_bytes, memory.optimizer_bytes, memory.gradient_bytes, memory.buffer_bytes) == (0, 0, 0, 0)
    assert memory.kept_bytes == loss
    # output, output times direction, and their sum; the backward pass needs less
    assert memory.step_peak_bytes == 2 * output + loss
    assert memory.peak_bytes == memory.frozen_bytes + memory.input_bytes + memory.step_peak_bytes


def test_memory_counts_what_is_kept_for_the_backward_pass() -> None:
    case = TanhCase(name="tanh", precision="float32", layer=(ROWS, COLUMNS), tokens=TOKENS)
    step = step_of(subjects("frozen"), case)
    step()
    assert measure_memory(step).kept_bytes == TOKENS * ROWS * FLOAT + FLOAT


def test_memory_of_full_fine_tuning_holds_gradients_and_two_moments() -> None:
    step = step_of(subjects("full"))
    step()
    memory = measure_memory(step)
    weight = ROWS * COLUMNS * FLOAT
    assert (memory.frozen_bytes, memory.trained_bytes, memory.gradient_bytes) == (0, weight, weight)
    assert memory.optimizer_bytes == 2 * weight + FLOAT  # and the number of the step
    assert memory.step_peak_bytes >= weight + TOKENS * COLUMNS * FLOAT
    assert memory.sum_bytes == 4 * weight + FLOAT + memory.input_bytes + memory.kept_bytes


def test_memory_does_not_depend_on_the_other_subjects_or_on_earlier_steps() -> None:
    alone = step_of(subjects("weight"))
    alone()
    first = measure_memory(alone)
    alone()
    assert measure_memory(alone) == first
    beside = measured(subjects("full", "weight"))
    found = beside.find("weight")
    assert found is not None
    assert found.memory == first


def test_micro_batches_keep_less() -> None:
    case = TanhCase(name="tanh", precision="float32", layer=(ROWS, COLUMNS), tokens=TOKENS)
    step = step_of(subjects(parts=["method=full_ft", "micro_batches=4"]), case)
    step()
    assert measure_memory(step).kept_bytes == TOKENS * ROWS * FLOAT // 4 + FLOAT


@pytest.mark.parametrize(("label", "least"), [("frozen", 4.0), ("full", 6.0)])
def test_operations_of_a_single_layer_are_those_of_the_book(label: str, least: float) -> None:
    result = measured(subjects(label))
    assert result.unit_flops == TOKENS * ROWS * COLUMNS
    assert result.subjects[0].floor_units == least
    assert result.subjects[0].flops == least * result.unit_flops


@pytest.mark.parametrize(
    ("label", "least"),
    [
        # one product and one gradient of the bases' width 48; both ends of the two products, and one gradient
        ("weight", 6 + 2 * 2 * COLUMNS / TOKENS),
        ("activation", 4 + 2 * COLUMNS * (2 * (ROWS + COLUMNS) + COLUMNS) / (ROWS * COLUMNS)),
    ],
)
def test_both_forms_do_hardly_more_than_the_least(label: str, least: float) -> None:
    result = measured(subjects("frozen", label))
    found = result.find(label)
    assert found is not None
    assert found.floor_units == pytest.approx(least)
    counted = counted_units(result, found)
    assert counted is not None
    # the diagonals' gradients are products of the size of a basis, whatever the number of tokens
    assert least - 1e-9 <= counted <= least + 8 / TOKENS


def test_auto_is_told_by_its_operations() -> None:
    result = measured(subjects("weight", "activation", "auto"))
    flops = {one.label: one.flops for one in result.subjects}
    assert flops["weight"] != flops["activation"]
    assert flops["auto"] in (flops["weight"], flops["activation"])


# ---------------------------------------------------------------------------------------------------------- the steps


def test_frozen_weights_are_shared_and_trained_ones_are_not() -> None:
    base = LAYER.build(device=CPU, seed=1)
    inputs = LAYER.inputs(base, device=CPU, seed=1)
    before = base[0].weight.clone()  # type: ignore[index]
    field = subjects("full", "weight")
    full, weight = (TrainingStep(LAYER, base, one, inputs=inputs, seed=1) for one in field.subjects)
    full()
    weight()
    places = {one.untyped_storage().data_ptr() for one in base.parameters()}
    assert places == {one.untyped_storage().data_ptr() for one in weight.model.parameters() if not one.requires_grad}
    assert not places & {one.untyped_storage().data_ptr() for one in full.model.parameters()}
    assert torch.equal(base[0].weight, before)  # type: ignore[index]
    assert not torch.equal(full.trained[0], before)


def test_a_subject_that_writes_to_the_frozen_weights_is_found_out() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Careless(type(subjects("frozen").subjects[0].method)):  # type: ignore[misc]
        def apply(
            self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
        ) -> Adaptation:
            adaptation: Adaptation = super().apply(model, targets, seed=seed, execution=execution)
            with torch.no_grad():
                next(model.parameters()).add_(1)
            return adaptation

    with pytest.raises(RuntimeError, match=r"1 frozen weights changed .* '0\.weight'"):
        measured(with_method(Careless(head="text")))


def test_a_subject_that_cannot_run_is_left_out_with_its_reason() -> None:
    class Absent(type(subjects("frozen").subjects[0].method)):  # type: ignore[misc]
        def apply(
            self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
        ) -> Adaptation:
            raise ModuleNotFoundError("the package of this method is not installed")

    absent = with_method(Absent(head="text"), label="absent").subjects
    too_large = subjects("frozen", large=["method=lora", "method.rank=49"])
    result = measured(dataclasses.replace(too_large, subjects=(*absent, *too_large.subjects)))
    assert [one.label for one in result.subjects] == ["frozen"]
    assert result.left_out["absent"] == "ModuleNotFoundError: the package of this method is not installed"
    assert "rank 49 does not fit site '0.weight'" in result.left_out["large"]


def with_method(method: Any, *, label: str = "subject") -> Field:
    subject = Subject(
        label=label, overrides=(), config={}, method=method, execution=DEFAULT_EXECUTION, compile=False, micro_batches=1
    )
    return Field(subjects=(subject,), relative_to=(), memory_relative_to=None)


def test_rounds_take_every_subject_once_in_rotated_order() -> None:
    now, order = 0.0, ""

    def take(label: str, seconds: float) -> None:
        nonlocal now, order
        order += label
        now += seconds

    steps = {"a": lambda: take("a", 1.0), "b": lambda: take("b", 2.0), "c": lambda: take("c", 3.0)}
    seen: list[int] = []
    times = interleave(steps, rounds=4, seconds=1e9, on_round=seen.append, clock=lambda: now)
    assert order == "abcbcacababc"
    assert times == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize(("seconds", "rounds"), [(0.1, 3), (11.0, 4), (1e9, 9)])
def test_time_limits_the_rounds_but_for_the_first_three(
    seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gc.collect", lambda: 0)
    now = 0.0

    def take() -> None:
        nonlocal now
        now += 3.0

    times = interleave({"a": take}, rounds=9, seconds=seconds, on_round=lambda _: None, clock=lambda: now)
    assert len(times["a"]) == rounds


def test_the_factors_are_multiplied_once_for_all_micro_batches_where_they_accumulate() -> None:
    method = ["method=randlora", "method.contraction=weight", "micro_batches=4"]
    field = subjects(each=method, once=[*method, "execution.accumulate=true"])
    result = measured(field)
    each, once = (result.find(label) for label in ("each", "once"))
    assert each is not None
    assert once is not None
    product = 2 * ROWS * COLUMNS * COLUMNS
    assert each.flops - once.flops >= 3 * 2 * product  # the product and its gradient, three times


# ------------------------------------------------------------------------------------------------------- the command


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
    lora = 'subjects.members={full:["method=full_ft"],lora:["method=lora","method.rank=2"]}'
    for precision in ("float32", "bfloat16_autocast", "bfloat16_weights"):
        assert run(*SMALL, *TINY_LLAMA, f"to={tmp_path}", f"workload.precision={precision}", lora, "only=lora") == 0
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
    "subjects": (["subjects=nope"], "subjects=nope: there is no such subjects; valid: forms"),
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


# --------------------------------------------------------------------------------------------------------- the files


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


def test_methods_of_the_standard_subjects_are_in_the_folder() -> None:
    assert (CONF / "subjects" / "standard.yaml").is_file()
    assert ROOT / "results" / "bench" == runners.bench.RESULTS
    assert build("method", "lora") == subjects(mine=["method=lora"]).subjects[0].method
