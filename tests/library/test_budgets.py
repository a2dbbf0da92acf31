"""Equal budgets, on small sites and on the published backbones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from configs import ADAPTER_METHODS, METHODS, build, names
from tiny_models import Tiny, targets_of

from randlora.adapter import Method, Targets
from randlora.budgets import BytesBudget, MatchMethod, ParameterBudget, PercentBudget, Unlimited, number_of_bytes
from randlora.fitting import BudgetError, fit

FindTargets = Callable[..., Targets]
VISION = {"targets": ["visual.*.attn.in_proj_weight", "visual.*.mlp.c_fc.weight", "visual.*.mlp.c_proj.weight"]}


@pytest.fixture(scope="module")
def tiny() -> Targets:
    return targets_of(Tiny())


@pytest.fixture(scope="module")
def vit_b32(targets_of_backbone: FindTargets) -> Targets:
    return targets_of_backbone("clip_vit_b32")


PAPER = {
    ("lora", "rank", 32): (6_881_280, 4_128_768),
    ("randlora", "rank", 6): (5_151_672, 3_566_592),
    ("vera", "rank", 256): (141_312, 82_944),
    ("nola", "bases", 1024): (147_456, 73_728),
}


@pytest.mark.parametrize(("setting", "counts"), PAPER.items(), ids=[key[0] for key in PAPER])
def test_counts_of_the_paper_on_vit_b32(
    setting: tuple[str, str, int], counts: tuple[int, int], vit_b32: Targets, targets_of_backbone: FindTargets
) -> None:
    name, field, size = setting
    method = dataclasses.replace(METHODS[name], **{field: size})
    assert method.count(vit_b32) == counts[0]
    assert method.count(targets_of_backbone("clip_vit_b32", **VISION, scope=["visual.*"])) == counts[1]


def test_every_basis_count_of_randlora_on_vit_b32(vit_b32: Targets) -> None:
    method = dataclasses.replace(METHODS["randlora"], rank=6, basis_count="floor_plus_one")
    assert method.count(vit_b32) == 5_198_184


def test_full_fine_tuning_trains_every_parameter_of_vit_b32(vit_b32: Targets) -> None:
    assert METHODS["full_ft"].count(vit_b32) == 151_277_313
    assert sum(site.out_features * site.in_features for site in vit_b32.sites) == 112_459_776


@pytest.mark.parametrize("asked", [500, 999, 1_000, 4_321, 50_000])
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_never_above_the_budget_and_as_near_as_can_be(name: str, asked: int, tiny: Targets) -> None:
    method = ADAPTER_METHODS[name]
    solution = fit(method, tiny, asked=asked)
    sizes = range(1, min(method.largest_size(tiny), 5000) + 1)
    below = [count for size in sizes if (count := method.resized(size).count(tiny)) <= asked]
    assert solution.reached == max(below)
    assert solution.method.count(tiny) == solution.reached
    assert solution.asked == asked


@pytest.mark.parametrize("asked", [500, 999, 4_321])
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_over_the_budget_where_that_is_nearer_and_allowed(name: str, asked: int, tiny: Targets) -> None:
    method = ADAPTER_METHODS[name]
    solution = fit(method, tiny, asked=asked, allow_over=True)
    sizes = range(1, min(method.largest_size(tiny), 5000) + 1)
    assert abs(solution.reached - asked) == min(abs(method.resized(size).count(tiny) - asked) for size in sizes)


def test_vera_says_that_it_cannot_reach_the_budget(tiny: Targets, vit_b32: Targets) -> None:
    for targets in (tiny, vit_b32):
        asked = dataclasses.replace(METHODS["lora"], rank=8).count(targets)
        solution = fit(METHODS["vera"], targets, asked=asked)
        assert solution.note is not None
        assert (
            f"VeRA cannot reach the budget of {asked:,} parameters: at most {solution.reached:,} (rank "
            in solution.note
        )
        assert solution.reached < asked


@pytest.mark.parametrize("name", ["lora", "randlora"])
def test_methods_within_reach_have_no_note(name: str, vit_b32: Targets) -> None:
    asked = METHODS["lora"].count(vit_b32)
    solution = fit(METHODS[name], vit_b32, asked=asked)
    assert solution.note is None
    assert 0.85 * asked < solution.reached <= asked


def test_nola_reaches_what_spans_both_factors_of_the_largest_site(vit_b32: Targets) -> None:
    solution = fit(METHODS["nola"], vit_b32, asked=METHODS["lora"].count(vit_b32))
    assert solution.method.bases == 4 * 768
    assert solution.note is not None
    assert "NoLA cannot reach the budget of 6,881,280 parameters: at most 442,368 (bases 3072)" in solution.note


def test_the_note_appears_below_nine_tenths_of_the_budget(tiny: Targets) -> None:
    vera = METHODS["vera"]
    most = vera.resized(vera.largest_size(tiny)).count(tiny)
    assert fit(vera, tiny, asked=most).note is None
    assert fit(vera, tiny, asked=int(most / 0.9)).note is None
    assert fit(vera, tiny, asked=int(most / 0.9) + 2).note is not None


def test_a_size_too_coarse_to_come_near_is_not_out_of_reach(tiny: Targets) -> None:
    one, two = (dataclasses.replace(METHODS["lora"], rank=rank).count(tiny) for rank in (1, 2))
    solution = fit(METHODS["lora"], tiny, asked=two - 1)
    assert solution.reached == one < 0.9 * solution.asked
    assert solution.note is None


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_budget_below_the_smallest_size_is_an_error(name: str, tiny: Targets) -> None:
    with pytest.raises(ValueError, match=r"a budget of 1 parameters is out of reach of .* budget.allow_over=true"):
        fit(ADAPTER_METHODS[name], tiny, asked=1)
    solution = fit(ADAPTER_METHODS[name], tiny, asked=1, allow_over=True)
    assert solution.reached > 1


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.size_field is None])
def test_methods_without_a_size_keep_what_they_train(name: str, tiny: Targets) -> None:
    for asked in (1, 100, 10**9):
        solution = fit(METHODS[name], tiny, asked=asked)
        assert solution.method == METHODS[name]
        assert solution.reached == METHODS[name].count(tiny)
        assert (solution.note is None) == (not METHODS[name].trains_backbone)
    with pytest.raises(ValueError, match="has no size to set"):
        METHODS[name].resized(3)


@pytest.mark.parametrize("reference", METHODS)
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_any_method_can_be_the_reference(name: str, reference: str, vit_b32: Targets) -> None:
    other = METHODS[reference]
    budget = MatchMethod(reference=other, allow_over=False)
    asked = other.count(vit_b32)
    method = ADAPTER_METHODS[name]
    smallest = min(method.resized(size).count(vit_b32) for size in range(1, min(method.largest_size(vit_b32), 600) + 1))
    if asked < smallest:
        with pytest.raises(ValueError, match=f"a budget of {asked:,} parameters is out of reach of"):
            budget.solve(method, vit_b32)
        return
    solution = budget.solve(method, vit_b32)
    assert solution.asked == asked
    assert solution.reached <= asked
    if name == reference:
        assert solution.reached == asked
        assert solution.note is None


def test_unlimited_changes_nothing(tiny: Targets) -> None:
    for method in METHODS.values():
        solution = Unlimited().solve(method, tiny)
        assert (solution.method, solution.asked, solution.note) == (method, None, None)
        assert solution.reached == method.count(tiny)


def test_a_number_of_parameters_is_a_budget(tiny: Targets) -> None:
    budget = ParameterBudget(parameters=4_000, allow_over=False)
    assert budget.solve(METHODS["lora"], tiny) == fit(METHODS["lora"], tiny, asked=4_000)


@pytest.mark.parametrize("value", [0, -5, 1.5, "many", True])
def test_a_budget_is_a_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"ParameterBudget.parameters = .*; valid: a whole number"):
        ParameterBudget(parameters=value, allow_over=False)


@pytest.mark.parametrize("value", [0, "yes", None])
def test_going_over_the_budget_is_asked_for_plainly(value: Any) -> None:
    for make in (partial(ParameterBudget, parameters=5), partial(MatchMethod, reference=METHODS["lora"])):
        with pytest.raises(ValueError, match=r"allow_over = .*; valid: true or false"):
            make(allow_over=value)


def test_the_budget_configs_solve_on_the_embedded_backbone(targets_of_backbone: FindTargets) -> None:
    targets = targets_of_backbone("micro_clip")
    solved: dict[str, Method] = {}
    for name in names("budget"):
        if name == "parameters":
            continue
        solution = build("budget", name).solve(METHODS["randlora"], targets)
        solved[name] = solution.method
        assert solution.asked is None or solution.reached <= solution.asked
    assert "match_lora" in solved


def test_a_large_model_is_solved_quickly() -> None:
    from randlora.adapter import Site

    shapes = [(4096, 4096), (1024, 4096), (1024, 4096), (14336, 4096), (4096, 14336)]
    sites = [
        Site(name=f"{layer}.{k}", out_features=rows, in_features=columns)
        for layer in range(32)
        for k, (rows, columns) in enumerate(shapes)
    ]
    targets = Targets(sites=tuple(sites))
    asked = dataclasses.replace(METHODS["lora"], rank=32).count(targets)
    assert asked == 56_623_104
    solutions = {name: fit(METHODS[name], targets, asked=asked) for name in ADAPTER_METHODS}
    assert solutions["randlora"].method.rank == 30
    assert solutions["randlora"].reached <= asked
    assert solutions["vera"].note is not None
