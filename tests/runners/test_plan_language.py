"""`randlora plan` for language models: predicted steps beside real ones, deep models from shallow ones, and tables."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from torch.autograd import profiler
from torch.utils.flop_counter import FlopCounterMode

from randlora.execution import DEFAULT_EXECUTION
from randlora.shared import Shared
from runners.benchmark.memory import replay
from runners.compose import compose, instantiate_part
from runners.machine import ROOT
from runners.planning.predict import predict, predict_whole
from runners.planning.shapes import TextStep
from runners.planning.step import RunStep
from runners.planning.text_forecast import _reading

MOST = 0.01
TOKENS, BATCH = 64, 4
EMBEDDED = ["backbone=stories260k", "dataset=micro_commonsense", "recipe=commonsense"]
METHODS = {
    "dora": ["method=dora"],
    "full_ft": ["method=full_ft"],
    "lora": ["method=lora_llm", "method.rank=8"],
    "nola": ["method=nola_randlora_llm"],
    "randlora": ["method=randlora_llm", "method.rank=8"],
    "vera": ["method=vera_llm", "method.rank=16"],
}


def shape_of(*overrides: str, **changes: object) -> TextStep:
    config = compose("config", [*EMBEDDED, f"recipe.batch_size={BATCH}", *overrides])
    parts = {name: instantiate_part(name, config[name]) for name in ("backbone", "method", "recipe")}
    shape = TextStep(
        **parts,
        tokens=TOKENS,
        execution=DEFAULT_EXECUTION,
        recompute_blocks=False,
        device="cpu",
        precision="float32",
    )
    return replace(shape, **changes)  # type: ignore[arg-type]


def real_step(shape: TextStep) -> RunStep:
    return RunStep(shape, shape.backbone.build(root=ROOT, device=torch.device("cpu")))


def measured_peak(shape: TextStep) -> int:
    """Return the most bytes alive in the second step of the real model, what is there before it included."""
    step = real_step(shape)
    step.take(lambda phase: None)
    gc.collect()
    with profiler.profile(profile_memory=True) as profile:
        step.take(lambda phase: None)
    low = [copy for one in step.objective.modules() if isinstance(one, Shared) for copy in one.low_copies()]
    there = [*step.objective.parameters(), *step.objective.buffers(), *low, *step.states(), *step.batch]
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in there}
    return sum(storages.values()) + replay(profile.kineto_results.events()).peak


def assert_close(predicted: int, measured: int) -> None:
    print(f"predicted {predicted:,} bytes, measured {measured:,}: {predicted / measured - 1:+.3%}")
    assert predicted == pytest.approx(measured, rel=MOST)


@pytest.mark.parametrize("method", METHODS)
def test_predicted_peak_is_that_of_a_real_step(method: str) -> None:
    shape = shape_of(*METHODS[method])
    assert_close(predict(shape).peak_bytes, measured_peak(shape))


def test_recomputed_blocks_are_predicted_as_they_are_run() -> None:
    shape = shape_of(*METHODS["randlora"], recompute_blocks=True)
    recomputed = predict(shape)
    assert_close(recomputed.peak_bytes, measured_peak(shape))
    kept = predict(replace(shape, recompute_blocks=False))
    assert recomputed.memory.kept_bytes < 0.5 * kept.memory.kept_bytes
    assert recomputed.products > kept.products


def test_bfloat16_weights_and_micro_batches_are_predicted_as_they_are_run() -> None:
    shape = shape_of(*METHODS["lora"], "recipe.micro_batch_size=1", "backbone.dtype=bfloat16", precision="bfloat16")
    predicted = predict(shape)
    assert_close(predicted.peak_bytes, measured_peak(shape))
    whole = predict(replace(shape, recipe=replace(shape.recipe, micro_batch_size=None)))
    assert predicted.memory.kept_bytes < 0.3 * whole.memory.kept_bytes
    # all four micro-batches count, of which two are run
    assert predicted.attention == whole.attention
    full = predict(shape_of(*METHODS["lora"], precision="bfloat16"))
    assert full.memory.frozen_bytes == 2 * predicted.memory.frozen_bytes


def test_dropout_takes_its_masks() -> None:
    shape = shape_of(*METHODS["lora"])
    none = replace(shape, recipe=replace(shape.recipe, dropout=0.0))
    assert predict(shape).memory.kept_bytes > predict(none).memory.kept_bytes


def test_operations_are_those_of_a_real_step() -> None:
    shape = shape_of(*METHODS["randlora"], "recipe.micro_batch_size=1")
    step = real_step(shape)
    with FlopCounterMode(display=False) as counter:
        step.take(lambda phase: None)
    assert predict(shape).products == counter.get_total_flops()


# the most is alive at the loss, in the backward pass and in the optimizer's step
DEEP: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]] = {
    "loss": (["method=lora_llm"], {}),
    "recomputed": (["method=randlora_llm", "recipe.micro_batch_size=3"], {"recompute_blocks": True}),
    "optimizer": (["method=full_ft", "recipe.batch_size=1"], {"tokens": 8}),
    "gpu": (["method=dora", "recipe.micro_batch_size=1"], {"device": "cuda", "precision": "bfloat16"}),
}


@pytest.mark.parametrize("case", DEEP)
def test_a_deep_model_is_predicted_from_two_shallow_ones(case: str) -> None:
    overrides, changes = DEEP[case]
    deep = ["backbone.checkpoint=null", "backbone.architecture.num_hidden_layers=8"]
    shape = shape_of(*overrides, *deep, **changes)
    quick, whole = predict(shape), predict_whole(shape)
    assert len(quick.peaks) == 1 < len(whole.peaks)
    for name in ("peak_bytes", "memory", "trained", "products", "attention", "forward"):
        assert getattr(quick, name) == getattr(whole, name)


def test_operations_of_an_answer_are_those_of_the_model_by_hand() -> None:
    backbone = shape_of("method=full_ft").backbone
    reading = _reading(backbone)
    width, inner, keys, vocabulary, blocks = 64, 172, 32, 512, 5
    body = blocks * 2 * (2 * width * width + 2 * width * keys + 3 * width * inner)
    assert (reading.body, reading.head, reading.pair) == (body, 2 * width * vocabulary, blocks * 4 * width)
    assert reading.text(10) == 10 * body + 2 * width * vocabulary + 100 * blocks * 4 * width


def write_table(folder: Path, name: str, *, fixed: Sequence[str], methods: Mapping[str, Sequence[str]]) -> None:
    table = {
        "title": f"Questions of {name}",
        "metric": "{task}/accuracy",
        "fixed": list(fixed),
        "axes": {
            "task": {"BoolQ": ["metric.task=boolq"], "PIQA": ["metric.task=piqa"]},
            "method": {label: list(overrides) for label, overrides in methods.items()},
        },
        "rows": ["method"],
        "columns": ["task"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(table))  # JSON is YAML


SMALL = [*EMBEDDED, "recipe.cutoff=64"]
TWO = {"LoRA": METHODS["lora"], "Zero-shot": ["method=zero_shot"]}


def planned(command: Command, *overrides: str) -> dict[str, Any]:
    outcome = command("plan", "table=small", "format=json", *overrides)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def rows_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {row["method"]: row for row in plan["rows"]}


def test_a_plan_counts_runs_steps_and_answers(command: Command, experiments: Path, tmp_path: Path) -> None:
    write_table(experiments, "small", fixed=SMALL, methods=TWO)
    machine = f"machine.results={tmp_path}"
    plan = planned(command, machine)
    assert (plan["cells"], plan["total"]["cells"], plan["tokens"]) == (4, 2, [64])
    rows = rows_of(plan)
    # 15,000 questions without the 120 held out, three epochs in batches of 16
    assert rows["LoRA"]["steps"] == 3 * (15_000 - 120) // 16
    assert rows["LoRA"]["samples"] == 3 * (15_000 - 120)
    assert rows["Zero-shot"]["steps"] == rows["Zero-shot"]["train_flops"] == 0
    assert rows["LoRA"]["peak_bytes"] > rows["LoRA"]["peak_kept_bytes"] > 0
    reading, answers = _reading(shape_of("method=full_ft").backbone), 2305
    written = 4 * sum(reading.token(behind) for behind in range(64, 96))
    each = reading.text(63) + written + reading.text(64)
    assert rows["LoRA"]["eval_flops"] == rows["Zero-shot"]["eval_flops"] == pytest.approx(answers * each)
    assert [one["state"] for one in plan["datasets"]] == ["here"]
    assert [one["missing"] for one in plan["weights"]] == [None]
    shorter = rows_of(planned(command, machine, "tokens=30"))["LoRA"]
    assert shorter["peak_kept_bytes"] < 0.6 * rows["LoRA"]["peak_kept_bytes"]
    text = command("plan", "table=small", machine).out
    assert "4 cells, which show 2 runs: 0 ok, 2 missing" in text
    assert "all taken to be 64 tokens long" in text
    assert "questions: all here (micro_commonsense)" in text
    assert "images" not in text


def test_a_rate_makes_hours_of_training_and_not_of_answers(command: Command, experiments: Path, tmp_path: Path) -> None:
    write_table(experiments, "small", fixed=SMALL, methods=TWO)
    row = rows_of(planned(command, f"machine.results={tmp_path}", "flops_per_s=1e9"))["LoRA"]
    assert row["train_s"] == pytest.approx(row["train_flops"] / 1e9)
    assert row["eval_s"] is None
    assert "written token by token" in command("plan", "table=small", "flops_per_s=1e9").out


def test_an_unknown_number_of_questions_hides_nothing_else(
    command: Command, experiments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    fixed = ["backbone=stories260k", "recipe=commonsense", "recipe.cutoff=64", "dataset=commonsense_15k"]
    write_table(experiments, "small", fixed=fixed, methods=TWO)
    plan = planned(command, f"machine.results={tmp_path}")
    row = rows_of(plan)["LoRA"]
    assert row["steps"] is row["samples"] is row["train_flops"] is None
    assert row["peak_bytes"] > 0
    assert row["eval_flops"] > 0
    assert plan["unknown_sizes"] == ["commonsense_15k"]
    text = command("plan", "table=small", f"machine.results={tmp_path}").out
    assert "unknown number of training questions: commonsense_15k" in text
    assert "randlora data prepare dataset=commonsense_15k" in text


@pytest.mark.parametrize(
    ("extra", "overrides", "words"),
    [
        ([], ["tokens=65"], "tokens=65: a text of this recipe has at most 64 tokens (its cutoff)"),
        ([], ["tokens=0"], "tokens=0: valid: a whole number of tokens from 1"),
        ([], ["tokens=long"], "tokens=long: valid: a whole number of tokens from 1"),
        (["recipe.questions=15000"], [], "recipe.questions=15,000, but dataset micro_commonsense has 14,880"),
        (["recipe.validation=15000"], [], "leaves none of the 15,000 training questions"),
    ],
)
def test_a_mistake_is_one_line(
    command: Command, experiments: Path, extra: list[str], overrides: list[str], words: str
) -> None:
    write_table(experiments, "small", fixed=[*SMALL, *extra], methods=TWO)
    outcome = command("plan", "table=small", *overrides)
    assert outcome.code == 2
    assert outcome.out == ""
    assert words in outcome.err.strip().splitlines()[-1]


def test_quantised_weights_are_not_predicted_as_if_they_were_whole(
    command: Command, experiments: Path, tmp_path: Path
) -> None:
    write_table(experiments, "small", fixed=[*SMALL, "backbone.quantize=8bit"], methods=TWO)
    outcome = command("plan", "table=small", "format=json", f"machine.results={tmp_path}")
    assert outcome.code == 1
    row = rows_of(json.loads(outcome.out))["LoRA"]
    assert "quantised weights have no prediction" in row["problem"]
    assert row["peak_bytes"] is None
    assert row["steps"] == 2790
