"""The commonsense tables as files: the paper's runs, numbers, sizes and disputes; what is one run is run once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from results import render
from results.paper_lines import read_lines
from results.rollup import Table, roll_up
from results.table import TableSpec
from results.table_parser import load_table
from runners.machine import EXPERIMENTS
from runners.plan import Planner
from runners.tables import PlannedTable, plan_table

TASKS = ["boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"]
TABLE_15 = {"commonsense_qwen2": "Qwen2-0.5B", "commonsense_phi3": "Phi3-mini", "commonsense_llama3": "Llama3-8B"}
# zero-shot is one run under both sizes of training data
RUNS = {
    "commonsense_qwen2": 2 * 6 + 1,
    "commonsense_phi3": 2 * 8 + 1,
    "commonsense_llama3": 2 * 8 + 1,
    "commonsense_table1": 3 * (2 * 6 + 1),
    "commonsense_disputed": 2 * 10,
    "dora_comparison": 4 * 3,
    "figure1_llama3": 6,
    "micro_commonsense": 1 + 6 * 3,
}
# trained parameters of the paper's sites and ranks, by label, and their share of the model in percent
COUNTS = {
    "commonsense_qwen2": {
        "NoLA": (245_760, "0.05"),
        "VeRA-1024": (288_768, "0.06"),
        "LoRA-16": (5_898_240, "1.18"),
        "RandLoRA-10": (5_885_136, "1.18"),
        "LoRA-32": (11_796_480, "2.33"),
        "RandLoRA-5": (11_771_688, "2.33"),
    },
    "commonsense_phi3": {
        "NoLA": (196_608, "0.005"),
        "VeRA-1024": (1_015_808, "0.027"),  # printed: 0.015
        "LoRA-16": (22_020_096, "0.57"),
        "RandLoRA-40": (22_705_152, "0.59"),  # printed: 0.58
        "LoRA-32": (44_040_192, "1.14"),
        "RandLoRA-20": (45_415_296, "1.17"),  # printed: 1.16
        "LoRA-64": (88_080_384, "2.25"),  # printed: 2.28
        "RandLoRA-10": (90_832_704, "2.32"),  # printed: 2.29
    },
    "commonsense_llama3": {
        "NoLA": (327_680, "0.004"),
        "VeRA-1024": (950_272, "0.012"),  # printed: 0.014
        "LoRA-16": (28_311_552, "0.35"),
        "RandLoRA-60": (28_309_760, "0.35"),
        "LoRA-32": (56_623_104, "0.70"),
        "RandLoRA-30": (56_162_560, "0.69"),  # printed: 0.7
        "LoRA-64": (113_246_208, "1.39"),  # printed: 1.4
        "RandLoRA-15": (112_262_816, "1.38"),  # printed: 1.4
    },
}


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


@pytest.fixture(scope="module")
def tables(planner: Planner) -> Mapping[str, PlannedTable]:
    return {name: plan_table(name, planner=planner) for name in RUNS}


def spec_of(name: str) -> TableSpec:
    return load_table(EXPERIMENTS / f"{name}.yaml")


def empty(table: PlannedTable) -> Table:
    return roll_up(table.spec, table.planned, {})


def runs_of(table: PlannedTable) -> list[tuple[Mapping[str, str], Any]]:
    return [(one.cell.labels, table.check(id)) for id, one in table.runs.items()]


@pytest.mark.parametrize("name", RUNS)
def test_the_tasks_of_a_run_are_one_run(name: str, tables: Mapping[str, PlannedTable]) -> None:
    table = tables[name]
    assert len(table.runs) == RUNS[name] == empty(table).total
    tasks = defaultdict(set)
    for one in table.planned:
        tasks[one.id].add(one.cell.metric.partition("/")[0])
    assert all(found == set(TASKS) for found in tasks.values())
    assert [cell.metric.partition("/")[0] for cell in table.spec.cells()][:: len(table.planned) // 8] == TASKS


def test_tables_share_their_runs(tables: Mapping[str, PlannedTable]) -> None:
    printed = set().union(*(tables[name].runs for name in TABLE_15))
    assert set(tables["commonsense_table1"].runs) < printed
    assert set(tables["figure1_llama3"].runs) < set(tables["commonsense_llama3"].runs)
    own = {"commonsense_disputed": 14, "dora_comparison": 4}
    for name, count in own.items():
        assert len(set(tables[name].runs) - set(tables["commonsense_llama3"].runs)) == count


@pytest.mark.parametrize(("name", "backbone"), TABLE_15.items())
def test_table_15_holds_every_number_of_the_paper(name: str, backbone: str) -> None:
    spec = spec_of(name)
    lines = [line for line in read_lines("results/paper/commonsense.csv") if line["backbone"] == backbone]
    printed = {
        (line["train_size"], line["method"].replace("VeRA1024", "VeRA-1024"), line["task"]): line["accuracy_percent"]
        for line in lines
        if line["task"] != "average"
    }
    assert spec.paper is not None
    found = {}
    for cell in spec.cells():
        labels, number = cell.labels, spec.paper.get(cell.labels)
        assert number is not None
        size = "zero-shot" if labels["method"] == "Zero-shot" else labels["data"]
        found[size, labels["method"], labels["task"]] = number.value
    assert found == pytest.approx({place: float(text) / 100 for place, text in printed.items()})


def test_the_printed_averages_are_those_of_their_entries() -> None:
    values, printed = defaultdict(list), {}
    for line in read_lines("results/paper/commonsense.csv"):
        key = (line["backbone"], line["train_size"], line["method"])
        if line["task"] == "average":
            printed[key] = float(line["accuracy_percent"])
        else:
            values[key].append(float(line["accuracy_percent"]))
    assert len(printed) == 47
    for key, average in printed.items():
        assert len(values[key]) == 8
        assert sum(values[key]) / 8 == pytest.approx(average, abs=0.013)


def test_table_1_is_table_15_with_one_decimal(tables: Mapping[str, PlannedTable]) -> None:
    averages = {
        (line["backbone"], line["train_size"], line["method"]): float(line["accuracy_percent"])
        for line in read_lines("results/paper/commonsense.csv")
        if line["task"] == "average"
    }
    label_of = {one.id: one.cell.labels for name in TABLE_15 for one in tables[name].planned}
    spec = spec_of("commonsense_table1")
    assert spec.paper is not None
    for one in tables["commonsense_table1"].planned:
        labels, detail = one.cell.labels, label_of[one.id]
        method = detail["method"].replace("VeRA-1024", "VeRA1024")
        size = "zero-shot" if method == "Zero-shot" else labels["data"]
        number = spec.paper.get(labels)
        assert number is not None
        assert 100 * number.value == pytest.approx(averages[labels["network"], size, method], abs=0.0501)


def test_figure_1c_is_drawn_from_the_numbers_read_from_it() -> None:
    spec = spec_of("figure1_llama3")
    lines = {line["label"]: line for line in read_lines("results/paper/figure1.csv") if line["panel"] == "c"}
    assert spec.plot is not None
    assert spec.paper is not None
    assert set(spec.axes["method"]) == set(lines) == {label for own in spec.plot.lines.values() for label in own}
    assert spec.plot.parameters == {label: float(line["parameters"]) for label, line in lines.items()}
    for label, (count, _) in COUNTS["commonsense_llama3"].items():
        if label in lines:
            assert spec.plot.parameters[label] == pytest.approx(count, rel=0.002)


@pytest.mark.parametrize("name", TABLE_15)
def test_the_methods_have_the_papers_sizes_rates_and_recipe(name: str, tables: Mapping[str, PlannedTable]) -> None:
    micro = {"commonsense_qwen2": 16, "commonsense_phi3": 8, "commonsense_llama3": 4}[name]
    seen = set()
    for labels, run in runs_of(tables[name]):
        method, recipe = labels["method"], run.recipe
        assert (recipe.epochs, recipe.batch_size, recipe.micro_batch_size) == (3, 16, micro)
        assert (recipe.learning_rate, recipe.dropout, recipe.cutoff) == (1e-4, 0.05, 256)
        assert (recipe.validation, recipe.select, recipe.warmup_steps) == (120, "best_validation", 100)
        assert list(run.dataset.questions) == TASKS
        assert run.dataset.name == f"commonsense_{labels['data']}"
        if method != "Zero-shot":
            count, percent = COUNTS[name][method]
            assert run.solution.reached == count
            frozen = sum(one.numel() for one in run.backbone.skeleton().parameters())
            rounding = 0.51 * 10.0 ** -len(percent.partition(".")[2])
            assert 100 * count / (frozen + count) == pytest.approx(float(percent), abs=rounding)
            seen.add(method)
    assert seen == set(COUNTS[name])


def test_the_released_targeting_of_phi_3_is_the_down_projection_alone() -> None:
    from runners.compose import compose
    from runners.plan import check_run

    overrides = ["backbone=phi3_mini_down", "dataset=commonsense_15k", "recipe=commonsense", "method=lora_llm"]
    run = check_run(compose("config", [*overrides, "method.rank=16"]))
    assert run.solution.reached == 32 * 16 * (3072 + 8192) == 5_767_168


def test_disputed_settings_differ_from_the_paper_in_what_their_label_says(
    tables: Mapping[str, PlannedTable],
) -> None:
    runs = {labels["method"]: run for labels, run in runs_of(tables["commonsense_disputed"]) if labels["data"] == "15k"}
    assert len(runs) == 10
    for label, run in runs.items():
        method, *changes = label.split(", ")
        plain = runs[method]
        assert run.recipe.epochs == (1 if "1 epoch" in changes else 3)
        assert run.recipe.learning_rate == (1e-2 if "rate 1e-2" in changes else 1e-4)
        own, base = run.config["method"], plain.config["method"]
        changed = {key for key in base if own[key] != base[key]}
        if "no scale" in changes:
            assert changed == {"alpha"}
            assert (own["alpha"], own["scale_rule"]) == (1.0, "constant")
        elif "alpha = 20 r" in changes:
            assert changed == {"alpha", "scale_rule"}
            assert (own["alpha"] / own["rank"], own["scale_rule"]) == (20.0, "over_rank")
        else:
            assert not changed
        others = {key for key in run.config if key not in ("method", "recipe")}
        assert all(run.config[key] == plain.config[key] for key in others)


def test_the_small_table_compares_methods_at_one_budget(tables: Mapping[str, PlannedTable]) -> None:
    table = tables["micro_commonsense"]
    reached = {labels["method"]: run.solution for labels, run in runs_of(table)}
    assert set(reached) == {"Zero-shot", "FT", "LoRA", "DoRA", "VeRA", "NoLA", "RandLoRA"}
    (budget,) = {one.asked for name, one in reached.items() if name not in ("Zero-shot", "FT")}
    assert budget == reached["LoRA"].reached == 15_840
    for name in ("DoRA", "NoLA", "RandLoRA"):
        assert 0.85 * budget < reached[name].reached <= budget
    assert "cannot reach" in (reached["VeRA"].note or "")
    for cell in table.spec.cells():
        scorer, method = cell.labels["scorer"], cell.labels["method"]
        own = {"Generated answer": "accuracy", "Likelihood": "likelihood"}.get(scorer, "likelihood_normalised")
        assert cell.metric.partition("/")[2] == {"Chance": "chance", "Majority": "majority"}.get(method, own)


def test_contradictions_stand_at_what_they_concern(tables: Mapping[str, PlannedTable]) -> None:
    for name in TABLE_15:
        table = empty(tables[name])
        noted = {row.labels[1]: {table.footnotes[number - 1] for number in row.footnotes} for row in table.rows}
        assert any("the released script has 1e-2" in text.lower() for text in noted["VeRA-1024"])
        assert not noted["LoRA-16"]
        ranks = {
            method
            for method, texts in noted.items()
            if any(re.search(r"Table 9(, which)? prints r = ", text) for text in texts)
        }
        assert ranks == {method for method in noted if method.startswith("RandLoRA")}
        assert "1 epoch" in (table.spec.note or "")
    assert "down projection alone" in (tables["commonsense_phi3"].spec.note or "")


@pytest.mark.parametrize("name", RUNS)
def test_every_table_renders_without_records(name: str, tables: Mapping[str, PlannedTable]) -> None:
    table = empty(tables[name])
    assert render.latex(table).isascii()
    text = render.markdown(table)
    assert f"0 of {RUNS[name]} runs complete" in text
    assert "{" not in text
    for form in (text, render.csv(table), render.json(table)):
        assert "nan" not in form.lower()
