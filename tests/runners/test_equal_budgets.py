"""Equal budgets of runs on the real backbone: what is asked, what is reached, what is said when it cannot be."""

from __future__ import annotations

import pytest
from lab import Lab

from runners.compose import ConfigError, compose
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


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["budget=percent", "budget.percent=1"], 60_512),
        (["budget=bytes", "budget.bytes=200kB"], 49_000),
        (["budget=bytes", "budget.bytes=204800"], 50_000),
    ],
)
def test_a_run_has_a_share_of_the_model_or_a_size_of_file(overrides: list[str], asked: int, lab: Lab) -> None:
    run = lab.run("method=randlora", *overrides, "recipe.max_steps=1")
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    counts = record.parameters
    assert counts is not None
    assert counts.budget_asked == pytest.approx(asked, rel=0.02)
    assert 0.85 * counts.budget_asked < counts.budget_reached == counts.adapter <= counts.budget_asked
    assert record.config["budget"][overrides[0].partition("=")[2]] is not None
    if overrides[0] == "budget=bytes":
        assert counts.saved_bytes is not None
        assert 0.85 * 200_000 < counts.saved_bytes <= 204_800


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
        (["method=lora", "budget=percent", "budget.percent=100"], "valid: a number above 0 and below 100"),
        (
            ["method=lora", "budget=percent", "budget.percent=0.01"],
            "a budget of 599 parameters is out of reach of LoRA",
        ),
        (["method=lora", "budget=percent"], "budget needs budget.percent=…"),
        (["method=lora", "budget=bytes", "budget.bytes=4XB"], "bytes = '4XB'; valid: a number of bytes, or one with"),
        (["method=lora", "budget=bytes", "budget.bytes=500"], "a budget of 0 parameters is out of reach of LoRA"),
    ],
)
def test_sizes_that_do_not_fit_are_found_before_anything_is_loaded(
    overrides: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("randlora.backbones.clip.OpenClip.build", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=words):
        check_run(compose("config", overrides))
