"""What `randlora bench` counts, against hand computation, and how it takes its steps. No time is asserted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from bench_lab import COLUMNS, CPU, FLOAT, LAYER, ROWS, TOKENS, TanhCase, measured, step_of, subjects
from torch import nn

from randlora.adapter import Targets
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import Adaptation
from results.bench_tables import counted_units
from runners.benchmark.layers import LayerCase
from runners.benchmark.memory import measure_memory
from runners.benchmark.step import TrainingStep
from runners.benchmark.subjects import Field, Subject
from runners.benchmark.timing import interleave


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


class BrokenCase(LayerCase):
    """A layer whose loss torch.compile has to take in two graphs."""

    def loss(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = model(inputs["x"])
        torch._dynamo.graph_break()
        return (outputs * inputs["direction"]).sum()


@pytest.mark.parametrize(("kind", "broken"), [(LayerCase, False), (BrokenCase, True)])
def test_graph_breaks_are_counted(kind: type[LayerCase], broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # the eager backend: what is tested is the row, not the compiler
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend="eager"))
    case = kind(name="layer", precision="float32", layer=(ROWS, COLUMNS), tokens=TOKENS)
    result = measured(subjects(compiled=["method=full_ft", "compile=true"]), case)
    assert not result.left_out
    assert result.subjects[0].graph_breaks is not None
    assert (result.subjects[0].graph_breaks > 0) == broken


def test_a_subject_of_which_nothing_is_compiled_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    result = measured(subjects(compiled=["method=full_ft", "compile=true"]))
    assert result.left_out == {"compiled": "RuntimeError: torch.compile compiled nothing of the step"}
