"""The committed records are whole, current and say what the documents say."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from statistics import mean

import pytest
from configs import ROOT

from results.render import markdown
from results.store import RecordStore
from runners.tables import names, plan_table

PUBLISHED = ROOT / "results" / "published"
# not made of records; tested in tests/results/test_bench_results.py and tests/runners/test_plan_verb.py
OTHERS = tuple(PUBLISHED / name for name in ("answers", "bench", "input", "overhead", "plan"))
TABLES = sorted(path.name for path in PUBLISHED.iterdir() if path.is_dir() and path not in OTHERS)


@pytest.mark.parametrize("name", TABLES)
def test_records_are_those_of_the_table_file_and_render_to_the_committed_table(name: str) -> None:
    scan = RecordStore(PUBLISHED / name / "records").scan()
    table = plan_table(name).roll_up(scan)
    assert not scan.problems
    assert table.counts.get("missing", 0) == table.counts.get("stale", 0) == 0
    assert markdown(table) == (PUBLISHED / name / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_nothing_frozen_moved_and_no_budget_was_passed(name: str) -> None:
    for record in RecordStore(PUBLISHED / name / "records").scan().records.values():
        if record.status != "ok":
            continue
        assert {"frozen_unchanged", "count_as_predicted"} <= record.checks.keys()
        assert all(record.checks.values())
        assert record.parameters is not None
        if record.parameters.budget_asked is not None and record.parameters.budget_note is None:
            assert record.parameters.adapter <= record.parameters.budget_asked


def test_every_fine_tuning_method_of_the_demo_beats_zero_shot() -> None:
    document = json.loads((PUBLISHED / "demo" / "demo.json").read_text(encoding="utf-8"))
    planned = plan_table("demo").planned
    records = RecordStore(PUBLISHED / "demo" / "records").scan().records
    scores: dict[str, list[float]] = {}
    for one in planned:
        scores.setdefault(one.cell.labels["method"], []).append(records[one.id].metrics["test/top1"])
    zero_shot = mean(scores.pop("Zero-shot"))
    assert len(scores) == len(document["rows"]) - 1
    assert all(mean(values) > zero_shot for values in scores.values())


def test_the_readme_shows_the_published_demo() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    published = (PUBLISHED / "demo" / "demo.md").read_text(encoding="utf-8")
    rows = [line for line in published.splitlines() if line.startswith("|")]
    assert rows
    assert all(row in readme for row in rows)
    assert "results/published/demo/demo.png" in readme


def test_the_readme_shows_the_averages_of_the_small_table_11() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    published = (PUBLISHED / "micro_clip" / "micro_clip.md").read_text(encoding="utf-8")
    averages = published.partition("#### Averages")[2].partition("####")[0]
    rows = [line for line in averages.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert all(row in readme for row in rows)


STUDIES = {
    "micro_clip": ("micro_learning_rates", "validation/top1"),
    "micro_rank_ablation": ("micro_learning_rates", "validation/top1"),
    "micro_commonsense": ("micro_commonsense_rates", "validation/answer_probability"),
}


@pytest.mark.parametrize("name", sorted(set(STUDIES) & set(TABLES)))
def test_every_method_of_a_small_table_has_the_best_rate_of_its_study(name: str) -> None:
    study, metric = STUDIES[name]
    records = RecordStore(PUBLISHED / study / "records").scan().records
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in plan_table(study).planned:
        if one.cell.metric == metric:
            # a run that diverged has no score
            score = records[one.id].metrics.get(metric, 0.0)
            found[one.cell.labels["method"]][records[one.id].config["recipe"]["learning_rate"]].append(score)
    best = {method: max(rates, key=lambda rate: mean(rates[rate])) for method, rates in found.items()}
    table = plan_table(name)
    used = {one.cell.labels["method"]: table.check(one.id).recipe.learning_rate for one in table.planned}
    assert set(used) & set(best) >= {"LoRA", "RandLoRA"}
    assert {method: best[method] for method in used if method in best} == {
        method: rate for method, rate in used.items() if method in best
    }


def test_every_published_table_has_a_table_file() -> None:
    assert set(TABLES) <= set(names())


def test_the_model_card_tells_the_weights_it_lies_beside() -> None:
    folder = ROOT / "assets" / "weights"
    report = json.loads((folder / "micro_clip.json").read_text(encoding="utf-8"))
    weights = (folder / "micro_clip.safetensors").read_bytes()
    assert report["sha256"] == hashlib.sha256(weights).hexdigest()
    assert report["bytes"] == len(weights) <= 12_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    for score in report["zero_shot_top1"].values():
        assert f"{100 * score:.1f} %" in card
