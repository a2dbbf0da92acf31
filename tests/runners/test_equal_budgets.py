"""Equal budgets on the real backbone: what is asked, what is reached, what is said when it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from lab import Lab, Outcome

from runners.compose import CONF, ConfigError, compose
from runners.plan import check_run, skeleton_targets
from runners.run import describe

MATCH = ("budget=match_lora", "budget.reference.rank=4")
METHODS = ("lora", "nola", "randlora", "vera")
ASKED = 70_656  # of LoRA with rank 4 on the 24 sites of micro_clip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_no_method_gets_more_than_the_budget(method: str, rank: int) -> None:
    run = check_run(
        compose("config", [f"method={method}", "budget=match_lora", f"budget.reference.rank={rank}", "dataset=pets3"])
    )
    assert run.solution.asked == rank * ASKED // 4
    assert 0 < run.solution.reached <= run.solution.asked
    counted = run.solution.method.count(skeleton_targets(run.backbone))
    assert counted == run.solution.reached


@pytest.mark.parametrize(("method", "noted"), [("randlora", False), ("vera", True)])
def test_asked_and_reached_are_in_the_record(lab: Lab, method: str, noted: bool) -> None:
    record = lab.execute(lab.run(f"method={method}", *MATCH, "recipe.max_steps=2"))
    assert record.status == "ok", record.reason
    counts = record.parameters
    assert counts is not None
    assert counts.budget_asked == ASKED
    assert counts.budget_reached == counts.adapter == counts.predicted
    assert counts.adapter <= ASKED
    assert f"budget {ASKED:,}, reached {counts.adapter:,}" in describe(record)
    if noted:
        assert counts.budget_note is not None
        assert "VeRA cannot reach the budget of 70,656 parameters" in counts.budget_note
        assert counts.budget_note in describe(record)
    else:
        assert counts.budget_note is None
        assert counts.adapter > 0.9 * ASKED


def test_the_verb_agrees_with_the_runs(command: Callable[..., Outcome]) -> None:
    rows = {row["method"]: row for row in json.loads(command("budget", "rank=4", "format=json").out)}
    assert sorted(rows) == ["full_ft", *METHODS]
    for method in METHODS:
        run = check_run(compose("config", [f"method={method}", *MATCH]))
        assert rows[method]["parameters"] == run.solution.reached
        assert rows[method]["note"] == run.solution.note
        field = run.solution.method.size_field
        assert rows[method]["size"] == f"{field} {getattr(run.solution.method, str(field))}"
    assert "cannot reach" in rows["vera"]["note"]
    assert rows["full_ft"]["size"] is None


def test_the_verb_takes_a_number_and_another_reference(command: Callable[..., Outcome]) -> None:
    rows = json.loads(command("budget", "parameters=1e5", "format=json").out)
    assert all(row["parameters"] <= 100_000 for row in rows if row["method"] != "full_ft")
    text = command("budget", "match=vera", "rank=8").out
    assert "as vera of rank 8" in text


def test_a_method_the_budget_is_too_small_for_says_so(command: Callable[..., Outcome]) -> None:
    rows = {row["method"]: row for row in json.loads(command("budget", "parameters=5000", "format=json").out)}
    assert rows["lora"]["parameters"] is None
    assert "out of reach" in rows["lora"]["note"]


def test_more_than_the_budget_only_where_asked() -> None:
    job = ["method=lora", "budget=parameters", "budget.parameters=30000"]
    below, near = (check_run(compose("config", [*job, *more])) for more in ([], ["budget.allow_over=true"]))
    assert below.solution.reached <= 30_000 < near.solution.reached


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=lora", "method.rank=0"], "rank = 0"),
        (["method=lora", "method.rank=193"], "rank 193 does not fit site"),
        (["method=randlora", "method.rank=193"], "rank 193 does not fit site"),
        (["method=lora", "budget=parameters", "budget.parameters=100"], "out of reach of LoRA, which trains 17,664"),
        (["method=lora", "budget=match_lora", "budget.reference.rank=0"], "rank = 0"),
        (["method=lora", "budget=parameters", "budget.parameters=-1"], "valid: a whole number of 1 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_found_before_anything_is_loaded(
    overrides: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("randlora.backbones.clip.OpenClip.build", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=words):
        check_run(compose("config", overrides))


def test_every_method_file_is_in_the_budget_table_unless_it_trains_nothing(command: Callable[..., Outcome]) -> None:
    rows = {row["method"] for row in json.loads(command("budget", "format=json").out)}
    assert rows == {path.stem for path in (CONF / "method").glob("*.yaml")} - {"zero_shot", "linear_probe"}
