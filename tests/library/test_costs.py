"""Prices fitted to measured costs; sizes within a budget of cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from itertools import combinations
from math import ceil
from pathlib import Path

import pytest
import torch
from cost_cases import LAYER, MIXED, SMALL, load_method, of

from randlora import cost_budgets
from randlora.adapter import AdapterMethod
from randlora.cost_budgets import CostBudgetError, MemoryBudget, StepTimeBudget
from randlora.cost_fit import fit, nonnegative_least_squares, unfitted
from randlora.costs import CostModel, Costs, CostsError, priced, read_costs
from randlora.features import KEPT, RESIDENT, TIME, UPDATING, Features
from randlora.work import Work


def synthetic() -> dict[str, Features]:
    methods = {f"lora {rank}": load_method("lora", rank=rank) for rank in (1, 3, 8, 12)}
    methods |= {f"lora {rank} weight": load_method("lora", rank=rank, contraction="weight") for rank in (2, 6, 14)}
    methods |= {f"vera {rank}": load_method("vera", rank=rank) for rank in (2, 9, 16)}
    methods |= {f"randlora {rank}": load_method("randlora", rank=rank) for rank in (1, 2, 5, 16)}
    methods |= {
        "dora": load_method("dora", rank=4),
        "kradapter": load_method("kradapter"),
        "full": load_method("full_ft"),
    }
    return {label: of(method) for label, method in methods.items()}


def test_the_fit_recovers_known_prices() -> None:
    true = dict(zip(TIME, (2e-3, 0.0, 1e-4, 5e-7, 3e-8, 0.0, 2e-9), strict=True))
    features = synthetic()
    measured = {label: 0.05 + priced(one, true) for label, one in features.items()}
    found = fit(features, measured, unfitted(usual=0.05), fitted=TIME)
    assert found.model.worst_error < 1e-6
    assert found.predicted == pytest.approx(measured)
    for label, one in features.items():
        assert found.model.predict(one) == pytest.approx(measured[label])


def test_each_subject_is_predicted_by_the_others_alone() -> None:
    features = synthetic()
    measured = {label: 0.05 + 1e-6 * one.trained + 1e-4 * (len(label) % 3) for label, one in features.items()}
    found = fit(features, measured, unfitted(usual=0.05), fitted=TIME)
    for label in features:
        others = {other: one for other, one in features.items() if other != label}
        alone = fit(others, {other: measured[other] for other in others}, unfitted(usual=0.05), fitted=TIME)
        assert found.predicted[label] == pytest.approx(alone.model.predict(features[label]))
    errors = {label: abs(found.predicted[label] / measured[label] - 1) for label in features}
    assert found.model.worst_error == max(errors.values()) == errors[found.model.worst_subject] > 0
    assert found.model.median_error == pytest.approx(sorted(errors.values())[len(errors) // 2])


def test_where_the_update_decides_the_peak_nothing_is_learned_from_it() -> None:
    start = unfitted(constant=1e4, common=RESIDENT, usual=0.0, other=UPDATING)
    true = dataclasses.replace(start, prices=dict.fromkeys(KEPT, 0.9))
    features = synthetic()
    tall = of(load_method("lora", rank=16), SMALL)
    features["all gradients"] = dataclasses.replace(tall, gradient_bytes=10**6, state_bytes=3 * 10**6)
    measured = {label: true.predict(one) for label, one in features.items()}
    assert measured["all gradients"] == 1e4 + 3e6 + 2e6
    found = fit(features, measured, start, fitted=KEPT)
    assert found.model.prices == pytest.approx(true.prices)
    assert found.model.worst_error < 1e-9


def test_least_squares_are_the_best_of_all_choices_of_columns() -> None:
    source = torch.Generator().manual_seed(3)
    negative = 0
    for _ in range(20):
        matrix = torch.rand(9, 4, generator=source, dtype=torch.float64)
        target = torch.randn(9, generator=source, dtype=torch.float64)
        found = torch.tensor(nonnegative_least_squares(matrix.tolist(), target.tolist()), dtype=torch.float64)
        assert float(found.min()) >= 0
        best = float(target.norm())
        for count in range(1, 5):
            for columns in combinations(range(4), count):
                some = torch.linalg.lstsq(matrix[:, columns], target[:, None]).solution[:, 0]
                if float(some.min()) >= 0:
                    best = min(best, float((matrix[:, columns] @ some - target).norm()))
        assert float((matrix @ found - target).norm()) == pytest.approx(best)
        negative += bool((found == 0).any())
    assert negative > 3, "the constraint never mattered"


def test_too_few_subjects_cannot_be_fitted() -> None:
    features = dict(list(synthetic().items())[:2])
    with pytest.raises(ValueError, match="a fit needs three subjects or more besides the frozen model, and has 2"):
        fit(features, dict.fromkeys(features, 1.0), unfitted(usual=0.5), fitted=TIME)


# budgets


def model(usual: float, prices: Mapping[str, float], **more: object) -> CostModel:
    common = {"constant": 0.0, "common": {}, "other": {}, "median_error": 0.02, "worst_error": 0.05}
    return CostModel(**{**common, "usual": usual, "prices": prices, "worst_subject": "full", **more})


@pytest.fixture
def path(tmp_path: Path) -> str:
    costs = Costs(
        title="three layers",
        case="batch 2",
        backbone="some backbone",
        workload={"title": "three layers"},
        environment={"device": "cpu: some", "threads": 1},
        work=Work.of(MIXED, {"a": 6, "b": 6, "c": 12}, "float32"),
        subjects=("full",),
        seconds=model(0.01, {"trained": 1e-5, "update_operations": 1e-7, "traffic_bytes": 1e-8}),
        bytes=model(5e4, dict.fromkeys(KEPT, 1.0), common=dict.fromkeys(RESIDENT, 1.0), other=UPDATING),
    )
    file = tmp_path / "costs.json"
    file.write_text(costs.to_json(), encoding="utf-8")
    assert read_costs(file) == dataclasses.replace(costs)
    return str(file)


SIZED = ("lora", "vera", "nola", "randlora", "dora", "randlora_peft")


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("share", [0.3, 0.7, 1.1])
@pytest.mark.parametrize("over", [False, True])
def test_budgets_choose_the_best_of_all_sizes(
    name: str, share: float, over: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_budgets, "features_of", of)
    if not over:
        monkeypatch.setattr(cost_budgets, "EXHAUSTIVE", 8)  # so that the search narrows down
    method = load_method(name, **({"rank": 1} if name == "nola" else {}))
    assert isinstance(method, AdapterMethod)
    work = read_costs(path).work
    sizes = range(1, method.largest_size(MIXED) + 1)
    found = {size: (of(method.resized(size), work), method.resized(size).count(MIXED)) for size in sizes}
    for kind in ("seconds", "bytes"):
        costs = {size: getattr(read_costs(path), kind).predict(one) for size, (one, _) in found.items()}
        goal = min(costs.values()) + share * (max(costs.values()) - min(costs.values()))
        common = {"costs": path, "allow_over": over}
        budget = (
            StepTimeBudget(seconds=goal, **common) if kind == "seconds" else MemoryBudget(bytes=ceil(goal), **common)
        )
        solution = budget.solve(method, MIXED)
        size = getattr(solution.method, str(method.size_field))
        if over:
            assert abs(costs[size] - goal) <= min(abs(cost - goal) for cost in costs.values()) + 1
        else:
            assert costs[size] <= budget.goal(MIXED)
            assert solution.reached == max(found[size][1] for size, cost in costs.items() if cost <= budget.goal(MIXED))
        # counts of parameters were not asked for
        assert solution.asked is None
        assert solution.note is not None
        assert (
            "median error 2.0 %, largest 5.0 % (three layers, batch 2, float32, cpu: some, 1 threads)" in solution.note
        )
        assert budget.words(costs[size]) in solution.note
        assert budget.measure(solution.method, MIXED) == pytest.approx(costs[size])


def test_out_of_reach_says_the_least(path: str) -> None:
    method = load_method("lora")
    least = read_costs(path).seconds.predict(of(method.resized(1), read_costs(path).work))
    budget = StepTimeBudget(seconds=least / 2, costs=path, allow_over=False)
    with pytest.raises(CostBudgetError, match=r"is out of reach of LoRA, which takes .* ms or more") as caught:
        budget.solve(method, MIXED)
    assert caught.value.least == pytest.approx(least)


def test_methods_without_a_size_keep_it_and_say_what_they_take(path: str) -> None:
    for seconds, above in ((1e-3, True), (1e3, False)):
        solution = StepTimeBudget(seconds=seconds, costs=path, allow_over=False).solve(load_method("full_ft"), MIXED)
        assert solution.reached == sum(MIXED.parameters.values())
        assert str(solution.note).startswith("FullFineTuning has no size to match a budget with; predicted ")
        assert (f"above the budget of {1e3 * seconds:,.1f} ms" in str(solution.note)) == above


def test_predictions_are_refused_where_nothing_was_measured(path: str, tmp_path: Path) -> None:
    budget = MemoryBudget(bytes="1MB", costs=path, allow_over=False)
    with pytest.raises(CostsError, match=r"was measured on 3 sites of some backbone .* these 1 sites are others"):
        budget.solve(load_method("lora"), LAYER)
    with pytest.raises(CostsError, match="there is no prediction for Peft"):
        budget.solve(load_method("peft", peft_type="LORA", options={"r": 2}), MIXED)
    with pytest.raises(CostsError, match=r"there is no costs file .*; make one with randlora bench subjects=sizes"):
        MemoryBudget(bytes="1MB", costs=str(tmp_path / "nope.json"), allow_over=False).solve(load_method("lora"), MIXED)


def test_files_that_are_none_are_refused(path: str, tmp_path: Path) -> None:
    body = json.loads(Path(path).read_text(encoding="utf-8"))
    wrong = {
        "[]": "is no costs file of schema 1",
        json.dumps({**body, "schema": 0}): "is no costs file of schema 1",
        json.dumps({name: one for name, one in body.items() if name != "bytes"}): "it lacks 'bytes'",
        json.dumps({**body, "seconds": {**body["seconds"], "prices": {"speed": 1}}}): "no feature is called speed",
        "{": "cannot read",
    }
    for text, message in wrong.items():
        file = tmp_path / "wrong.json"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(CostsError, match=message):
            read_costs(file)
