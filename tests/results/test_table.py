from __future__ import annotations

from pathlib import Path

import pytest

from results.table import FACTS, TableError, find_table
from results.table_parser import load_table

TEXT = """
title: A small table
metric: test/top1
fixed: [backbone=micro_clip]
axes:
  method: {LoRA: [method=lora, method.rank=4], on: [method=vera]}
  dataset: {MNIST: [dataset=mnist], EuroSAT: [dataset=eurosat]}
  seed: {1: [seed=1], 2: [seed=2]}
rows: [method]
columns: [dataset]
average: [dataset]
repeat: [seed]
"""


def _write(folder: Path, text: str, name: str = "small") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_a_table_file_is_read(tmp_path: Path) -> None:
    spec = load_table(_write(tmp_path, TEXT))
    assert (spec.name, spec.title, spec.metric) == ("small", "A small table", "test/top1")
    assert spec.axes["seed"] == {"1": ("seed=1",), "2": ("seed=2",)}
    assert list(spec.axes["method"]) == ["LoRA", "on"]
    assert spec.facts == FACTS
    assert (spec.note, spec.paper, spec.references) == (None, None, ())


def test_the_cells_are_the_product_of_the_axes(tmp_path: Path) -> None:
    cells = load_table(_write(tmp_path, TEXT)).cells()
    assert len(cells) == 8
    assert cells[0].labels == {"method": "LoRA", "dataset": "MNIST", "seed": "1"}
    assert cells[0].overrides == ("backbone=micro_clip", "method=lora", "method.rank=4", "dataset=mnist", "seed=1")
    assert len({cell.overrides for cell in cells}) == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", r"does not know 'titel'; it takes title, metric"),
        ("title: A small table", "title: [a]", "title must be text"),
        ("metric: test/top1", "", "metric is missing or empty"),
        ("rows: [method]", "rows: [methods]", r"rows does not know 'methods'; it takes method, dataset, seed"),
        ("repeat: [seed]", "repeat: [sead]", "repeat does not know 'sead'"),
        ("repeat: [seed]", "", r"axes\.seed is in none of rows, columns, repeat"),
        ("repeat: [seed]", "repeat: [seed, dataset]", r"axes\.dataset is more than once of rows, columns, repeat"),
        ("average: [dataset]", "average: [method]", "average does not know 'method'; it averages over .* dataset"),
        ("rows: [method]", "rows: [method, method]", "rows names something twice"),
        ("rows: [method]", "rows: method", "rows must be a list of texts"),
        ("{1: [seed=1], 2: [seed=2]}", "{}", r"axes\.seed is empty"),
        ("{1: [seed=1], 2: [seed=2]}", "[seed=1]", r"axes\.seed must be a mapping"),
        ("[seed=1]", "[{seed: 1}]", r"axes\.seed\.1 must be a list of texts"),
        ("[seed=1]", "[1]", r"axes\.seed\.1 '1' is no override; write group=choice"),
        ("2: [seed=2]", "2: [seed=1]", r"axes\.seed\.2 has the same overrides as 1"),
        ("2: [seed=2]", "1: [seed=2]", "key '1' appears twice"),
        ("title:", "metric: other\ntitle:", "key 'metric' appears twice"),
        (
            "repeat: [seed]",
            "repeat: [seed]\nfacts: [speed]",
            "facts does not know 'speed'; it takes budget, adapter_parameters",
        ),
        ("repeat: [seed]", "repeat: [seed]\nreferences: [FT]", "references does not know 'FT'; it takes LoRA, on"),
        ("fixed: [", "fixed: [[", "not valid YAML"),
    ],
)
def test_a_wrong_table_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path = _write(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(TableError, match=message) as error:
        load_table(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "text", "1: 2"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableError):
        load_table(_write(tmp_path, text))


def test_an_unknown_table_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    for name in ("aaa", "clip_vit_b32", "demo"):
        _write(tmp_path, TEXT, name)
    assert find_table("demo", tmp_path) == tmp_path / "demo.yaml"
    with pytest.raises(TableError, match=r"no table 'dema' .* it has demo, "):
        find_table("dema", tmp_path)
    with pytest.raises(TableError, match="no table file"):
        find_table("demo", tmp_path / "nowhere")


PAPER = """
title: Two lines of Table 11
metric: test/top1
axes:
  data: {16: [recipe.data=16], 100%: [recipe.data=1.0]}
  method: {Zero-shot: [method=zero_shot], LoRA-32: [method=lora], FT: [method=full_ft]}
  dataset: {Cars: [dataset=cars], DTD: [dataset=dtd]}
rows: [data, method]
columns: [dataset]
average: [dataset]
paper:
  file: results/paper/image_classification.csv
  where: {paper_table: 11}
  columns: {data: data_budget}
  labels: {method: {LoRA-32: LoRA32}, data: {16: 16 shots}}
"""


def test_the_papers_numbers_are_found_by_label(tmp_path: Path) -> None:
    paper = load_table(_write(tmp_path, PAPER)).paper
    assert paper is not None
    number = paper.get({"data": "16", "method": "LoRA-32", "dataset": "DTD", "seed": "1"})
    assert number is not None
    assert (number.value, number.rounding) == pytest.approx((0.648, 0.0005))
    number = paper.get({"data": "100%", "method": "FT", "dataset": "Cars"})
    assert number is not None
    assert number.value == pytest.approx(0.844)
    assert paper.get({"data": "16", "method": "Zero-shot", "dataset": "DTD"}) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_classification.csv", "image.csv", "cannot read .*; CSV files there: .*glue.csv"),
        ("paper_table: 11", "paper_table: 99", "does not know '99'; values left in column paper_table: 11, 12"),
        ("paper_table: 11", "paper: 11", "does not know 'paper'; columns of the CSV: .*paper_table"),
        ("where: {paper_table: 11}", "were: {paper_table: 11}", "does not know 'were'; it takes file, where"),
        ("where: {paper_table: 11}", "where: {}", "two lines for .*; narrow it down"),
        ("columns: {data: data_budget}", "columns: {}", "does not know 'data'; columns to map axis data to"),
        ("columns: {data: data_budget}", "columns: {date: data_budget}", "does not know 'date'; row and column axes"),
        ("LoRA-32: LoRA32", "LoRA-32: LoRA31", "does not know 'LoRA31'; values for axis method: FT, LoRA32"),
        ("LoRA-32: LoRA32", "LoRA-31: LoRA32", "does not know 'LoRA-31'; labels of axis method"),
        ("{Cars: [dataset=cars], DTD: [dataset=dtd]}", "{Car: [dataset=cars]}", "has no label of axis dataset"),
        ("  where:", "  value: method\n  where:", "is not a number"),
    ],
)
def test_a_wrong_paper_part_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PAPER
    with pytest.raises(TableError, match=message):
        load_table(_write(tmp_path, PAPER.replace(old, new, 1)))
