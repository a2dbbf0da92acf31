"""Differences between the rows of a table: pairs, holes, families, verdicts, forms and the picture."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
import pandas
import pytest
from record_factory import by_id, plan, record_of

from results import differences_forms
from results.comparing import Comparison, Question
from results.differences import Differences, compare_rows
from results.forest import draw_forest
from results.outcomes import OutcomeReader
from results.record import Record
from results.statistics import holm, sign_flip_p, stratified_t
from results.store import RecordStore
from results.table import Cell, TableError, TableSpec
from results.table_parser import load_table

TEXT = """
title: Small
metric: test/top1
axes:
  data: {1 shot: [recipe.shots=1], 16 shots: [recipe.shots=16]}
  method: {Zero-shot: [method=zero_shot], LoRA: [method=lora], NoLA: [method=nola], RandLoRA: [method=randlora]}
  dataset: {MNIST: [dataset=mnist], EuroSAT: [dataset=eurosat], DTD: [dataset=dtd]}
  seed: {1: [seed=1], 2: [seed=2], 3: [seed=3]}
rows: [data, method]
columns: [dataset]
average: [dataset]
repeat: [seed]
references: [Zero-shot]
"""
LEVEL = {"Zero-shot": 0.2, "LoRA": 0.60, "NoLA": 0.601, "RandLoRA": 0.65}
SAMPLES = 200


def value_of(cell: Cell) -> float:
    """A top-1 that is a whole number of samples; methods vary by dataset and seed, but not all in the same way."""
    place = f"{cell.labels['method']} {cell.labels['dataset']} {cell.labels['seed']} {cell.labels.get('data')}"
    noise = zlib.crc32(place.encode()) % 9 - 4
    return round(SAMPLES * LEVEL[cell.labels["method"]] + noise) / SAMPLES


def load(tmp_path: Path, text: str = TEXT) -> TableSpec:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return load_table(path)


@pytest.fixture
def spec(tmp_path: Path) -> TableSpec:
    return load(tmp_path)


Keep = Callable[[Cell], bool]


def differences(
    spec: TableSpec,
    tmp_path: Path,
    *,
    keep: Keep = lambda cell: True,
    predictions: Keep = lambda cell: False,
    top1: Callable[[Cell], float] = value_of,
    reference: str | None = None,
    over: Question | None = None,
) -> Differences:
    store, records = RecordStore(tmp_path / "runs"), list[Record]()
    for cell in spec.cells():
        if keep(cell):
            records.append(record_of(cell.labels, top1=top1(cell)))
            if predictions(cell):
                store.write_predictions(records[-1].id, frame(top1(cell), shift=int(cell.labels["seed"])))
    return compare_rows(
        spec, plan(spec), by_id(*records), outcomes=OutcomeReader(store), reference=reference, over=over
    )


def frame(top1: float, *, shift: int) -> pandas.DataFrame:
    right = numpy.roll(numpy.arange(SAMPLES) < round(top1 * SAMPLES), shift)
    return pandas.DataFrame({"label": 1, "predicted": right.astype(int)})


def at(found: Differences, block: str, first: str, second: str) -> Comparison:
    (one,) = (c for c in found.comparisons if (c.block, c.first, c.second) == ((block,), first, second))
    return one


def test_all_pairs_within_blocks_without_references(spec: TableSpec, tmp_path: Path) -> None:
    found = differences(spec, tmp_path)
    pairs = [(each.block[0], each.first, each.second) for each in found.comparisons]
    assert pairs == [
        (block, *pair)
        for block in ("1 shot", "16 shots")
        for pair in (("LoRA", "NoLA"), ("LoRA", "RandLoRA"), ("NoLA", "RandLoRA"))
    ]
    assert (found.left_out, found.family, found.datasets, found.seeds) == (("Zero-shot",), 6, 3, 3)


def test_every_row_against_a_reference(spec: TableSpec, tmp_path: Path) -> None:
    found = differences(spec, tmp_path, reference="LoRA")
    assert {(each.first, each.second) for each in found.comparisons} == {
        ("Zero-shot", "LoRA"),
        ("NoLA", "LoRA"),
        ("RandLoRA", "LoRA"),
    }
    assert found.left_out == ()
    assert at(found, "1 shot", "Zero-shot", "LoRA").verdict == "worse"
    with pytest.raises(TableError, match="no row 'DoRA'; valid: Zero-shot, LoRA, NoLA, RandLoRA"):
        differences(spec, tmp_path, reference="DoRA")


def test_numbers_pair_datasets_and_seeds(spec: TableSpec, tmp_path: Path) -> None:
    found = differences(spec, tmp_path)
    values = {tuple(cell.labels.values()): value_of(cell) for cell in spec.cells()}
    one = at(found, "16 shots", "LoRA", "RandLoRA")
    strata = [
        [values["16 shots", "LoRA", dataset, seed] - values["16 shots", "RandLoRA", dataset, seed] for seed in "123"]
        for dataset in ("MNIST", "EuroSAT", "DTD")
    ]
    means = [sum(each) / 3 for each in strata]
    expected = stratified_t(strata)
    assert expected is not None
    assert one.difference == pytest.approx(sum(means) / 3)
    assert one.p["datasets"] == sign_flip_p(means) == 0.25
    assert one.p["seeds"] == pytest.approx(expected.p)
    assert one.seeds_std == pytest.approx(expected.std)
    assert [part.difference for part in one.parts] == pytest.approx(means)


def test_the_correction_is_over_all_comparisons_of_the_question(spec: TableSpec, tmp_path: Path) -> None:
    found = differences(spec, tmp_path)
    assert found.over == "seeds"  # three datasets give no p below 0.25
    assert [each.p_corrected for each in found.comparisons] == list(holm([c.p["seeds"] for c in found.comparisons]))
    for each in found.comparisons:
        assert each.p_corrected is not None
        assert each.difference is not None
        told = "not told apart" if each.p_corrected >= 0.05 else "better" if each.difference > 0 else "worse"
        assert each.verdict == told
    assert {each.verdict for each in found.comparisons} == {"not told apart", "worse"}
    over = differences(spec, tmp_path, over="datasets")
    assert {each.verdict for each in over.comparisons} == {"not told apart"}
    assert [each.p for each in over.comparisons] == [each.p for each in found.comparisons]


def test_a_hole_on_either_side_leaves_no_number(spec: TableSpec, tmp_path: Path) -> None:
    hole = ("16 shots", "NoLA", "DTD", "2")
    found = differences(spec, tmp_path, keep=lambda cell: tuple(cell.labels.values()) != hole)
    for pair in (("LoRA", "NoLA"), ("NoLA", "RandLoRA")):
        one = at(found, "16 shots", *pair)
        assert (one.complete, one.of, one.difference, one.verdict, one.parts) == (2, 3, None, None, ())
        assert set(one.p.values()) == {None}
    assert at(found, "16 shots", "LoRA", "RandLoRA").difference is not None
    assert found.family == 4
    text = differences_forms.text(found)
    assert "· (2 of 3)" in text
    assert "2 of 6 have a hole" in text
    assert "nan" not in text.lower()
    empty = differences_forms.text(differences(spec, tmp_path, keep=lambda cell: False))
    assert "Nothing can be tested yet: every comparison has a hole" in empty
    assert "Holm" not in empty


def test_one_seed_has_no_test_over_seeds_and_no_seeds_needed(tmp_path: Path) -> None:
    spec = load(tmp_path, TEXT.replace(", 2: [seed=2], 3: [seed=3]", ""))
    found = differences(spec, tmp_path)
    assert found.over == "datasets"
    assert "(the table has a single seed; over=… asks another)" in differences_forms.text(found)
    for each in found.comparisons:
        assert (each.seeds, each.p["seeds"], each.seeds_needed) == (1, None, None)
        assert each.p["datasets"] is not None


def test_equal_methods_are_not_told_apart_and_need_no_number_of_seeds(spec: TableSpec, tmp_path: Path) -> None:
    found = differences(spec, tmp_path, top1=lambda cell: 0.5 + int(cell.labels["seed"]) / 10)
    for each in found.comparisons:
        assert (each.difference, each.p["datasets"], each.p["seeds"]) == (0.0, 1.0, 1.0)
        assert (each.verdict, each.seeds_needed) == ("not told apart", None)


def test_many_datasets_make_the_verdict_one_over_datasets(tmp_path: Path) -> None:
    names = ", ".join(f"D{k}: [dataset=d{k}]" for k in range(12))
    text = TEXT.replace("MNIST: [dataset=mnist], EuroSAT: [dataset=eurosat], DTD: [dataset=dtd]", names)
    found = differences(load(tmp_path, text), tmp_path)
    assert found.over == "datasets"
    assert at(found, "1 shot", "LoRA", "RandLoRA").p["datasets"] == 2 / 2**12
    assert at(found, "1 shot", "LoRA", "RandLoRA").verdict == "worse"


def test_a_table_without_averages_is_compared_column_by_column(tmp_path: Path) -> None:
    found = differences(load(tmp_path, TEXT.replace("average: [dataset]\n", "")), tmp_path)
    assert len(found.comparisons) == 2 * 3 * 3
    assert {each.of for each in found.comparisons} == {1}
    assert {each.p["datasets"] for each in found.comparisons} == {None}
    assert found.over == "seeds"
    assert "MNIST" in differences_forms.text(found)


def test_samples_are_tested_where_all_runs_have_predictions(spec: TableSpec, tmp_path: Path) -> None:
    found = differences(spec, tmp_path, predictions=lambda cell: cell.labels["method"] != "NoLA", over="samples")
    one = at(found, "1 shot", "LoRA", "RandLoRA")
    assert one.p["samples"] is not None
    assert one.p["samples"] < 0.001
    assert one.verdict == "worse"
    assert {part.samples for part in one.parts} == {SAMPLES}
    assert sum((part.second_alone or 0) - (part.first_alone or 0) for part in one.parts) > 0
    other = at(found, "1 shot", "LoRA", "NoLA")
    assert (other.p["samples"], other.verdict) == (None, None)
    assert other.no_samples == "no predictions.parquet beside the record"
    assert found.family == 2
    assert "No p over samples for 4: no predictions.parquet beside the record." in differences_forms.text(found)


def test_a_method_of_one_run_stands_at_every_seed(tmp_path: Path) -> None:
    spec = load(tmp_path)
    cells, planned = spec.cells(), list(plan(spec))
    first = {
        tuple(c.labels.values())[:3]: one for c, one in zip(cells, planned, strict=True) if c.labels["seed"] == "1"
    }
    merged = [
        first[tuple(c.labels.values())[:3]] if c.labels["method"] == "Zero-shot" else one
        for c, one in zip(cells, planned, strict=True)
    ]
    planned = [type(one)(cell=c, id=one.id, key=one.key) for c, one in zip(cells, merged, strict=True)]
    records = by_id(*(record_of(cell.labels, top1=value_of(cell)) for cell in cells))
    found = compare_rows(
        spec, planned, records, outcomes=OutcomeReader(RecordStore(tmp_path / "runs")), reference="Zero-shot"
    )
    one = at(found, "1 shot", "LoRA", "Zero-shot")
    assert one.seeds == 3
    assert one.p["seeds"] is not None
    assert one.verdict == "better"


def test_forms_for_programs_have_every_number(spec: TableSpec, tmp_path: Path) -> None:
    found = differences(spec, tmp_path)
    document = json.loads(differences_forms.json(found))
    lines = list(csv.DictReader(io.StringIO(differences_forms.csv(found))))
    assert len(document["comparisons"]) == len(lines) == 6
    assert document["correction"] == {"method": "Holm", "family": 6}
    for each, line in zip(document["comparisons"], lines, strict=True):
        assert each["data"] == line["data"]
        assert float(line["difference"]) == each["difference"]
        assert each["low_seeds"] < each["difference"] < each["high_seeds"]
        assert (line["p_samples"], each["p_samples"]) == ("", None)
        assert [column["column"]["dataset"] for column in each["columns"]] == ["MNIST", "EuroSAT", "DTD"]


def test_text_says_what_it_shows(spec: TableSpec, tmp_path: Path) -> None:
    text = differences_forms.text(differences(spec, tmp_path))
    assert "average over 3 datasets, 3 seeds" in text
    assert "Zero-shot left out" in text
    assert "3 datasets are too few for a verdict over datasets" in text
    assert "cannot be below 0.250" in text
    assert "Holm over the 6 tests" in text
    assert differences_forms.markdown(differences(spec, tmp_path)).count("\n|") == 2 + 6


def test_the_picture_is_drawn_where_there_is_a_number(spec: TableSpec, tmp_path: Path) -> None:
    path = tmp_path / "forest.png"
    draw_forest(differences(spec, tmp_path, reference="LoRA"), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TableError, match="every comparison has a hole"):
        draw_forest(differences(spec, tmp_path, keep=lambda cell: False), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_table_of_one_method_has_nothing_to_compare(tmp_path: Path) -> None:
    spec = load(tmp_path).select({"method": ["LoRA"]})
    found = differences(spec, tmp_path)
    assert found.comparisons == ()
    assert "no two methods to compare" in differences_forms.text(found)
    assert differences_forms.csv(found) == "\n"
