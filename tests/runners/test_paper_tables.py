"""The paper's tables as files: every cell is a run that fits, every number the paper's, every contradiction told."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping

import pytest

from results import render
from results.paper_lines import read_lines
from results.rollup import Table, roll_up
from results.table import TableSpec
from results.table_parser import load_table
from runners.machine import EXPERIMENTS, ROOT
from runners.plan import ImageRun, Planner, Run
from runners.tables import PlannedTable, names, plan_table

PAPER = ROOT / "results" / "paper"
IMAGE = {"clip_vit_b32": "11", "clip_vit_l14": "12", "clip_vit_h14": "13", "dinov2_vit_b14": "14"}
# trained numbers of the adapters, computed for the paper's ranks (sites of both towers, or of the image tower)
COUNTS = {
    "clip_vit_b32": {"NoLA": 147_456, "VeRA-256": 141_312, "LoRA-32": 6_881_280, "RandLoRA-6": 5_151_672},
    "clip_vit_l14": {"NoLA": 221_184, "VeRA-256": 297_984, "LoRA-32": 15_138_816, "RandLoRA-10": 9_722_304},
    "clip_vit_h14": {"NoLA": 344_064, "VeRA-1024": 696_320, "LoRA-32": 29_360_128, "RandLoRA-10": 23_445_216},
    "dinov2_vit_b14": {"NoLA": 73_728, "VeRA-256": 82_944, "LoRA-32": 4_128_768, "RandLoRA-6": 3_566_592},
    "figure2_clip_vit_b32": {"LoRA-32": 4_128_768, "RandLoRA-6": 3_566_592},
    "figure2_clip_vit_l14": {"LoRA-32": 11_010_048, "RandLoRA-8": 9_510_912},
}
RATES = {"NoLA": 1e-3, "VeRA": 1e-2, "LoRA": 1e-3, "RandLoRA": 1e-3, "FT": 1e-5}
VISION_RATES = {**RATES, "LoRA": 1e-2, "RandLoRA": 1e-2}


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


def runs_of(name: str, planner: Planner) -> Iterator[tuple[Mapping[str, str], Run]]:
    table = plan_table(name, planner=planner)
    for one in table.planned:
        yield one.cell.labels, table.check(one.id)


def spec_of(name: str) -> TableSpec:
    return load_table(EXPERIMENTS / f"{name}.yaml")


def empty(name: str, planner: Planner) -> Table:
    table: PlannedTable = plan_table(name, planner=planner)
    return roll_up(table.spec, table.planned, {})


@pytest.mark.parametrize("name", names())
def test_every_cell_is_a_run_of_its_own_that_fits_its_backbone(name: str, planner: Planner) -> None:
    # but for those of language models, whose tasks are one run (test_commonsense_tables.py)
    table = plan_table(name, planner=planner)
    found = [table.check(id) for id in table.runs]
    several = len({cell.metric for cell in table.spec.cells()}) > 1
    assert 0 < len(found) <= len(table.spec.cells())
    assert several or len(found) == len(table.spec.cells())
    for run in found:
        if isinstance(run, ImageRun):
            assert not run.recipe.epochs_by_dataset
            assert run.dataset.classes
        if run.solution.asked is not None:
            assert 0 < run.solution.reached <= run.solution.asked


@pytest.mark.parametrize("name", IMAGE)
def test_the_image_tables_hold_every_number_of_the_paper(name: str) -> None:
    spec = spec_of(name)
    lines = [
        line for line in read_lines("results/paper/image_classification.csv") if line["paper_table"] == IMAGE[name]
    ]
    printed = [line for line in lines if line["dataset"] != "average"]
    assert spec.paper is not None
    assert len(spec.cells()) == len(spec.paper.numbers) == len(printed)
    assert sorted(number.value for number in spec.paper.numbers.values()) == pytest.approx(
        sorted(float(line["top1_percent"]) / 100 for line in printed)
    )
    assert all(spec.paper.get(cell.labels) is not None for cell in spec.cells())
    titles = {line["dataset"] for line in lines} - {"average"}
    expected = titles if name != "dinov2_vit_b14" else titles - {"ImageNet"}
    assert set(spec.axes["dataset"]) == expected
    assert len(spec.axes["data"]) == 6
    assert len(spec.axes["method"]) == 5


@pytest.mark.parametrize("table", IMAGE.values())
def test_the_printed_averages_are_those_of_their_entries(table: str) -> None:
    values, printed = defaultdict(list), {}
    for line in read_lines("results/paper/image_classification.csv"):
        if line["paper_table"] == table:
            key = (line["data_budget"], line["method"])
            if line["dataset"] == "average":
                printed[key] = float(line["top1_percent"])
            else:
                values[key].append(float(line["top1_percent"]))
    assert len(printed) == 30
    for key, average in printed.items():
        assert sum(values[key]) / len(values[key]) == pytest.approx(average, abs=0.06)


@pytest.mark.parametrize("name", [name for name in names() if spec_of(name).paper is not None])
def test_no_reference_to_the_paper_is_silently_absent(name: str, planner: Planner) -> None:
    table = empty(name, planner)
    spec, rows = table.spec, table.rows
    assert spec.paper is not None
    of_averages = spec.paper.of == "averages"
    places = [entry for row in rows for entry in (row.averages if of_averages else row.entries)]
    without = [entry for entry in places if entry.paper is None]
    # the one reference of a relative table is 100 % on both sides
    assert len(without) == (len(rows) if spec.relative else 0)
    assert table.verdicts["not run"] + sum(entry.state == "paper" for entry in places) == len(places) - len(without)
    for labels in spec.paper.numbers:
        known = dict(zip(spec.paper.axes, labels, strict=True))
        assert all(label in spec.axes[axis] for axis, label in known.items())


@pytest.mark.parametrize("name", names())
def test_every_table_renders_without_records(name: str, planner: Planner) -> None:
    table = empty(name, planner)
    assert render.latex(table).isascii()
    for text in (render.markdown(table), render.csv(table), render.json(table)):
        assert "nan" not in text.lower()
    assert f"0 of {table.total} runs complete" in render.markdown(table)


def test_figure_1_is_drawn_from_the_numbers_read_from_it() -> None:
    for name, panel in (("figure1_dinov2", "a"), ("figure1_clip", "b")):
        spec = spec_of(name)
        lines = {line["label"]: line for line in read_lines("results/paper/figure1.csv") if line["panel"] == panel}
        assert spec.plot is not None
        assert spec.paper is not None
        assert set(spec.axes["method"]) == set(lines) == {label for own in spec.plot.lines.values() for label in own}
        assert spec.plot.parameters == {label: float(line["parameters"]) for label, line in lines.items()}
        for label, line in lines.items():
            number = spec.paper.get({"method": label})
            assert number is not None
            assert (number.value, number.rounding) == pytest.approx((float(line["accuracy_percent"]) / 100, 2e-4))


def test_the_costs_in_long_form_are_those_printed() -> None:
    long = {(line["model"], line["method"]): line for line in read_lines("results/paper/relative_cost_long.csv")}
    count = 0
    for line in read_lines("results/paper/relative_cost.csv"):
        for method in ("LoRA-32", "DoRA-32", "RandLoRA", "FT"):
            time, _, memory = line[method].partition(" / ")
            assert ((line["model"], method) in long) == bool(memory)
            if memory:
                count += 1
                found = long[line["model"], method]
                assert (found["time_percent"], found["memory_percent"]) == (time, memory)
    assert count == len(long)


@pytest.mark.parametrize("name", COUNTS)
def test_the_methods_have_the_papers_sizes_and_rates(name: str, planner: Planner) -> None:
    rates = RATES if name in IMAGE and name != "dinov2_vit_b14" else VISION_RATES
    seen = set()
    for labels, run in runs_of(name, planner):
        method = labels["method"]
        assert run.recipe.learning_rate == rates[method.partition("-")[0]]
        assert run.recipe.head_learning_rate == 1e-3
        if method in COUNTS[name]:
            assert run.solution.reached == COUNTS[name][method]
            seen.add(method)
    assert seen == set(COUNTS[name])


@pytest.mark.parametrize("name", IMAGE)
def test_the_recipe_is_the_papers(name: str, planner: Planner) -> None:
    shots = {"1 shot": 1, "2 shots": 2, "4 shots": 4, "16 shots": 16}
    epochs = dict(dataset_epochs())
    micro = {"clip_vit_l14": {64}, "clip_vit_h14": {64, 32}}.get(name, {None})
    seen = set()
    for labels, run in runs_of(name, planner):
        assert isinstance(run, ImageRun)
        recipe, data = run.recipe, labels["data"]
        assert recipe.shots == shots.get(data)
        assert recipe.fraction == (0.5 if data == "50%" else 1.0)
        assert recipe.epochs == (10 if data in shots else epochs[labels["dataset"]])
        assert (recipe.batch_size, recipe.weight_decay, recipe.clip_norm) == (128, 0.1, 1.0)
        assert (recipe.schedule, recipe.warmup_steps, recipe.final_fraction) == ("cosine", 0, 0.01)
        assert (recipe.replacement, recipe.min_steps_per_epoch, recipe.max_steps) == (True, 10, None)
        assert (recipe.crop, recipe.crop_scale, recipe.flip) == ("resized", (0.5, 1.0), True)
        assert recipe.evaluate_on == "test"
        seen.add(recipe.micro_batch_size)
    assert seen == micro


def dataset_epochs() -> Iterator[tuple[str, int]]:
    """The paper's Table 7 by the dataset's name in Tables 11 to 14."""
    other = {"Cars (Stanford)": "Cars", "PascalVOC (2007)": "PascalVOC"}
    with (PAPER / "image_datasets.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            (column,) = (name for name in line if name.startswith("epochs"))
            yield other.get(line["dataset"], line["dataset"]), int(line[column].split()[0])


def test_the_contradictions_of_the_paper_stand_at_what_they_concern(planner: Planner) -> None:
    table = empty("clip_vit_b32", planner)
    notes = {text: number for number, text in enumerate(table.footnotes, 1)}
    (figure,) = (number for text, number in notes.items() if "Figure 3a shows VeRA" in text)
    marked = [row.labels for row in table.rows if figure in row.averages[0].footnotes]
    assert marked == [(data, "VeRA-256") for data in ("1 shot", "4 shots", "16 shots", "50%", "100%")]
    (epochs,) = (number for text, number in notes.items() if "its code has 13" in text)
    places = [
        (row.labels[0], column)
        for row in table.rows
        for column, entry in zip(table.columns, row.entries, strict=True)
        if epochs in entry.footnotes
    ]
    assert set(places) == {("50%", ("EuroSAT",)), ("100%", ("EuroSAT",))}
    (full,) = (number for text, number in notes.items() if "at 1e-3" in text)
    assert {row.labels[1] for row in table.rows if full in row.footnotes} == {"FT"}
    for name, label in (("rank_ablation", "RandLoRA-6"), ("basis_ablation", "Uniform")):
        table = empty(name, planner)
        (unsafe,) = (number for number, text in enumerate(table.footnotes, 1) if "85.98 is not safe" in text)
        assert [row.labels[-1] for row in table.rows if unsafe in row.averages[0].footnotes] == [label]
    ranks = {"clip_vit_l14": "say rank 8", "dinov2_vit_b14": "says rank 8", "relative_memory": "Figure 3b gives"}
    for name, text in ranks.items():
        assert any(text in note for note in empty(name, planner).footnotes)


def test_footnotes_state_the_numbers_read_from_figure_3() -> None:
    curves = defaultdict(list)
    for line in read_lines("results/paper/figure3_averages.csv"):
        curves[line["panel"], line["method"]].append(line["average_percent"])
    assert len(curves) == 4
    texts = {name: " ".join(note.text for note in spec_of(name).footnotes) for name in IMAGE}
    panels = {"a": "clip_vit_b32", "b": "clip_vit_l14", "c": "clip_vit_h14"}
    for (panel, _), values in curves.items():
        assert ", ".join(values) in texts[panels[panel]]


def test_the_figures_compare_memory_with_the_papers_legend() -> None:
    expected = {"clip_vit_b32": (6.6, 8.5), "clip_vit_h14": (38.2, 57.5), "figure2_clip_vit_b32": (4.3, 4.9)}
    for name, (randlora, full) in expected.items():
        plot = spec_of(name).plot
        assert plot is not None
        assert set(plot.memory_gb) == set(plot.lines)
        (label,) = (label for label in plot.lines if label.startswith("RandLoRA"))
        assert (plot.memory_gb[label], plot.memory_gb["FT"]) == (randlora, full)


def test_the_small_tables_take_less_than_two_hours() -> None:
    cells = {name: len(spec_of(name).cells()) for name in names() if name.startswith("micro_") and "probe" not in name}
    # the time of micro_commonsense, of language models, is told where it is published
    del cells["micro_commonsense"], cells["micro_commonsense_rates"]
    assert set(cells) == {"micro_clip", "micro_rank_ablation", "micro_bases", "micro_learning_rates"}
    seconds_per_cell = 6.5  # 40 steps on a laptop, evaluation included
    assert sum(cells.values()) * seconds_per_cell < 2 * 3600


def test_every_method_has_the_same_number_of_trials(planner: Planner) -> None:
    trials = defaultdict(set)
    for labels, run in runs_of("micro_learning_rates", planner):
        assert run.recipe.evaluate_on == "validation"
        trials[labels["method"]].add((labels["data"], labels["dataset"], run.recipe.learning_rate))
    assert len(trials) >= 5
    assert len({frozenset(found) for found in trials.values()}) == 1
