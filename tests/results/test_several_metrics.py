"""Tables in which one run answers several places: tasks, scorers and reference rows of one evaluation."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from record_factory import make_record

from results import render
from results.record import Key, Parameters, Record, run_id
from results.rollup import Table, roll_up
from results.table import Planned, TableError, TableSpec
from results.table_parser import load_table

TEXT = """
title: Two tasks, two scorers
metric: "{task}/{score}"
fixed: [dataset=both]
axes:
  task: {BoolQ: [metric.task=boolq], PIQA: [metric.task=piqa]}
  scorer: {Generated: [metric.score=accuracy], Likelihood: [metric.score=likelihood]}
  method:
    Zero-shot: [method=zero_shot]
    Chance: [method=zero_shot, metric.score=chance]
    LoRA: [method=lora]
  seed: {1: [seed=1], 2: [seed=2]}
also:
  - {where: {method: [Zero-shot, Chance]}, overrides: [seed=1]}
rows: [scorer, method]
columns: [task]
average: [task]
repeat: [seed]
facts: [trainable_percent]
references: [Zero-shot, Chance]
"""
NAMES = [f"{task}/{score}" for task in ("boolq", "piqa") for score in ("accuracy", "likelihood", "chance")]


def _spec(folder: Path, text: str = TEXT) -> TableSpec:
    path = folder / "several.yaml"
    path.write_text(text)
    return load_table(path)


def _plan(spec: TableSpec) -> tuple[Planned, ...]:
    """Stand in for the runner: the last override of a key decides, and equal configs are one run."""
    planned = []
    for cell in spec.cells():
        config = dict(override.split("=", 1) for override in cell.overrides)
        key = Key(
            method=config["method"],
            backbone="b",
            dataset="d",
            recipe="r",
            budget="unlimited",
            seed=int(config["seed"]),
        )
        planned.append(Planned(cell=cell, id=run_id(config), key=key))
    return tuple(planned)


def _record(planned: Planned, metrics: Mapping[str, float], **changes: Any) -> Record:
    config = dict(override.split("=", 1) for override in planned.cell.overrides)
    adapter = 0 if "zero_shot" in planned.key.method else 20
    given = {
        "metrics": metrics,
        "parameters": Parameters(adapter=adapter, head=7, frozen=980 if adapter else 1000),
        **changes,
    }
    return dataclasses.replace(make_record(), id=planned.id, config=config, key=planned.key, **given)


def _records(spec: TableSpec, *, without: tuple[str, ...] = ()) -> dict[str, Record]:
    """Return a record per run, whose metrics tell where they come from; `without` are ids or metrics to leave out."""
    records = {}
    for index, planned in enumerate({one.id: one for one in reversed(_plan(spec))}.values()):
        metrics = {name: (10 * index + place) / 100 for place, name in enumerate(NAMES) if name not in without}
        if planned.id not in without:
            records[planned.id] = _record(planned, metrics)
    return records


def _table(spec: TableSpec, **more: Any) -> Table:
    return roll_up(spec, _plan(spec), _records(spec, **more))


def test_names_are_filled_by_labels_and_never_reach_the_config(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    cells = spec.cells()
    assert len(cells) == 2 * 2 * 3 * 2
    metrics = {(c.labels["task"], c.labels["scorer"], c.labels["method"]): c.metric for c in cells}
    assert metrics["PIQA", "Likelihood", "LoRA"] == "piqa/likelihood"
    assert metrics["BoolQ", "Generated", "Zero-shot"] == "boolq/accuracy"
    # method comes after scorer in the file, so its own value counts
    assert metrics["BoolQ", "Generated", "Chance"] == metrics["BoolQ", "Likelihood", "Chance"] == "boolq/chance"
    assert not any("metric" in override for cell in cells for override in cell.overrides)
    assert {one.id for one in _plan(spec)} == set(_records(spec))
    assert len(_records(spec)) == 3  # zero-shot once, LoRA with two seeds


def test_a_labels_value_wins_over_fixed(tmp_path: Path) -> None:
    text = TEXT.replace("fixed: [", "fixed: [metric.score=accuracy, ").replace(
        "{Generated: [metric.score=accuracy], Likelihood: [metric.score=likelihood]}",
        "{Generated: [x=1], Likelihood: [x=2, metric.score=likelihood]}",
    )
    metrics = {cell.labels["scorer"]: cell.metric for cell in _spec(tmp_path, text).cells()[:12]}
    assert metrics == {"Generated": "boolq/accuracy", "Likelihood": "boolq/likelihood"} | metrics
    assert {c.metric for c in _spec(tmp_path, text).cells() if c.labels["method"] == "LoRA"} == {
        *("boolq/accuracy", "boolq/likelihood", "piqa/accuracy", "piqa/likelihood")
    }


def test_each_place_shows_its_own_number_of_the_run(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    records, table = _records(spec), _table(spec)
    for planned in _plan(spec):
        labels = planned.cell.labels
        entry = table.entry((labels["scorer"], labels["method"]), (labels["task"],))
        # a run that no seed changes stands there once, under the first seed
        seed = labels["seed"] if labels["method"] == "LoRA" else "1"
        assert entry.values[seed] == records[planned.id].metrics[planned.cell.metric]


def test_runs_are_counted_once_and_repeats_that_are_one_run_are_one(tmp_path: Path) -> None:
    table = _table(_spec(tmp_path))
    assert (table.completed, table.total) == (3, 3)
    zero = table.entry(("Generated", "Zero-shot"), ("BoolQ",))
    assert (zero.n, zero.expected, zero.std, zero.state) == (1, 1, None, "ok")
    lora = table.entry(("Generated", "LoRA"), ("BoolQ",))
    assert (lora.n, lora.expected) == (2, 2)
    assert lora.std is not None
    assert "3 of 3 runs complete." in render.markdown(table)


def test_averages_are_over_the_tasks_of_one_score(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    records = _records(spec)
    row = next(row for row in _table(spec).rows if row.labels == ("Likelihood", "LoRA"))
    (average,) = row.averages
    runs = [one for one in _plan(spec) if one.cell.labels["method"] == "LoRA"]
    for planned in runs:
        metrics = records[planned.id].metrics
        expected = (metrics["boolq/likelihood"] + metrics["piqa/likelihood"]) / 2
        assert average.values[planned.cell.labels["seed"]] == pytest.approx(expected)


def test_a_task_that_a_run_did_not_answer_is_a_hole_and_the_run_is_not_complete(tmp_path: Path) -> None:
    table = _table(_spec(tmp_path), without=("piqa/likelihood",))
    assert table.entry(("Generated", "LoRA"), ("PIQA",)).state == "ok"
    assert table.entry(("Likelihood", "LoRA"), ("PIQA",)).state == "failed"
    row = next(row for row in table.rows if row.labels == ("Likelihood", "LoRA"))
    assert (row.averages[0].mean, row.averages[0].coverage) == (None, (1, 2))
    row = next(row for row in table.rows if row.labels == ("Generated", "LoRA"))
    assert row.averages[0].state == "ok"
    assert (table.counts["failed"], table.counts["ok"]) == (3, 0)
    assert any("the run has no metric piqa/likelihood, only boolq/accuracy" in note for note in table.footnotes)


def test_an_error_does_not_list_dozens_of_metrics(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    many = {f"task{index}/accuracy": 0.5 for index in range(40)} | {"boolq/acuracy": 0.5}
    records = {one.id: _record(one, many) for one in _plan(spec)}
    (note, *_) = roll_up(spec, _plan(spec), records).footnotes
    assert note.startswith("failed: the run has no metric boolq/accuracy, only 41 others, nearest boolq/acuracy, ")
    assert note.count(",") <= 8


def test_a_missing_run_is_missing_at_all_its_places(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    id = next(one.id for one in _plan(spec) if one.cell.labels["method"] == "Chance")
    table = roll_up(spec, _plan(spec), _records(spec, without=(id,)), running=[id])
    states = {row.labels: {entry.state for entry in row.entries} for row in table.rows}
    assert {labels for labels, found in states.items() if found == {"missing"}} == {
        (scorer, method) for scorer in ("Generated", "Likelihood") for method in ("Zero-shot", "Chance")
    }
    assert (table.counts["missing"], table.counts["ok"], table.running) == (1, 2, 1)


def test_the_share_of_trainable_parameters_is_of_the_model_with_them(tmp_path: Path) -> None:
    table = _table(_spec(tmp_path))
    shares = {row.labels[1]: row.facts.trainable_percent for row in table.rows}
    assert shares == {"Zero-shot": 0.0, "Chance": 0.0, "LoRA": pytest.approx(2.0)}
    assert "2 %" in render.markdown(table)
    assert "2 \\%" in render.latex(table)
    assert "Trainable" not in render.markdown(_table(_spec(tmp_path, TEXT.replace("facts: [trainable_percent]", ""))))


def test_programs_read_the_metric_of_each_number(tmp_path: Path) -> None:
    table = _table(_spec(tmp_path))
    lines = list(csv.DictReader(io.StringIO(render.csv(table))))
    metric_of = {(line["scorer"], line["method"], line["task"]): line["metric"] for line in lines}
    assert metric_of["Likelihood", "LoRA", "PIQA"] == "piqa/likelihood"
    assert metric_of["Likelihood", "Chance", "PIQA"] == "piqa/chance"
    assert metric_of["Likelihood", "LoRA", ""] == "{task}/likelihood"
    document = json.loads(render.json(table))
    assert document["metric"] == "{task}/{score}"
    assert document["rows"][0]["entries"][0]["metric"] == "boolq/accuracy"
    assert "score in %, mean ± " in render.markdown(table)
    assert "{" not in render.markdown(table)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[metric.task=piqa]",
            "[metric.tusk=piqa]",
            r"axes\.task\.PIQA does not know metric\.tusk; it takes metric\.task",
        ),
        (
            "[metric.task=piqa]",
            "[x=1]",
            r"metric has no task at task PIQA, scorer Generated, .*give metric\.task=value",
        ),
        ("[metric.task=piqa]", "[metric.task=]", r"axes\.task\.PIQA 'metric\.task=' fills no name"),
        ("[metric.task=piqa]", "[metric.task=boolq]", r"axes\.task\.PIQA has the same overrides as BoolQ"),
        ("[metric.task=piqa]", "[metric=piqa]", r"'metric=piqa' is no choice; fill a name in braces"),
        ("{task}/{score}", "{task}/{}", "has a brace without a name"),
        ("{task}/{score}", "{task/{score}", "has a brace without a name"),
        ("{task}/{score}", "test/top1", r"axes\.task\.BoolQ does not know metric\.task; it takes none, because metric"),
        ("fixed: [", "fixed: [metric.scorer=a, ", r"fixed does not know metric\.scorer"),
        ("overrides: [seed=1]", "overrides: [metric.seed=1]", r"also\.overrides does not know metric\.seed"),
        (
            "2: [seed=2]",
            "2: [seed=2, metric.score=x]",
            r"axes\.seed\.2 fills metric\.score, but repeats have a mean only",
        ),
        (
            "{where: {method: [Zero-shot, Chance]}, overrides: [seed=1]}",
            "{where: {seed: [1]}, overrides: [metric.score=x]}",
            r"also\.where tells repeats apart",
        ),
        ("Likelihood: [metric.score=likelihood]", 'Likelihood: ["metric.score={task}"]', "fills no name"),
    ],
)
def test_a_metric_that_cannot_be_meant_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(TableError, match=message) as error:
        _spec(tmp_path, TEXT.replace(old, new, 1))
    assert str(tmp_path / "several.yaml") in str(error.value)


def test_the_same_label_twice_is_seen_through_defaults(tmp_path: Path) -> None:
    text = TEXT.replace("fixed: [", "fixed: [metric.score=accuracy, ")
    text = text.replace("Likelihood: [metric.score=likelihood]", "Default: []")
    with pytest.raises(TableError, match=r"axes\.scorer\.Default has the same overrides as Generated"):
        _spec(tmp_path, text)


def test_a_cost_that_does_not_exist_is_refused_where_a_name_makes_it(tmp_path: Path) -> None:
    text = TEXT.replace("{task}/{score}", "cost/{task}_{score}")
    with pytest.raises(TableError, match=r"metric does not know 'cost/.*'; it takes cost/step_s"):
        _spec(tmp_path, text)


PAPER = """
paper:
  file: results/paper/commonsense.csv
  where: {backbone: Llama3-8B}
  value: accuracy_percent
  columns: {data: train_size}
  for_every: {data: zero-shot}
  labels: {method: {LoRA: LoRA-32, Variant: LoRA-32}}
"""
BESIDE = """
title: Beside the paper
metric: "{task}/accuracy"
axes:
  task: {BoolQ: [metric.task=boolq], PIQA: [metric.task=piqa]}
  data: {15k: [dataset=small], 170k: [dataset=large]}
  method: {Zero-shot: [method=zero_shot], LoRA: [method=lora], Variant: [method=other]}
rows: [data, method]
columns: [task]
average: [task]
"""


def test_lines_of_the_paper_may_stand_at_several_labels(tmp_path: Path) -> None:
    paper = _spec(tmp_path, BESIDE + PAPER).paper
    assert paper is not None
    assert len(paper.numbers) == 2 * 2 * 3

    def value(method: str, data: str) -> float:
        number = paper.get({"method": method, "data": data, "task": "BoolQ"})
        assert number is not None
        return number.value

    assert value("Zero-shot", "15k") == value("Zero-shot", "170k") == pytest.approx(0.6073)
    assert value("LoRA", "15k") == value("Variant", "15k") == pytest.approx(0.7422)
    assert value("LoRA", "170k") == pytest.approx(0.7508)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{data: zero-shot}", "{date: zero-shot}", "does not know 'date'; row and column axes"),
        ("{data: zero-shot}", "{data: zero}", "does not know 'zero'; values for axis data: 15k, 170k, zero-shot"),
        ("{data: zero-shot}", "zero-shot", "for_every must map names to texts"),
    ],
)
def test_a_wrong_value_for_every_label_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        _spec(tmp_path, BESIDE + PAPER.replace(old, new, 1))
