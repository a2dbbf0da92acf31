"""Two record sets side by side: matching, origins, states and forms."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from record_factory import make_record
from scipy import stats

from results import record_set_forms
from results.outcomes import OutcomeReader
from results.record import Record
from results.record_sets import RecordSets, compare_records
from results.store import RecordStore

SAMPLES = 100


class Side:
    """A store of records, some with predictions."""

    def __init__(self, root: Path) -> None:
        self.store = RecordStore(root)
        self.records: dict[str, Record] = {}

    def add(self, *, right: int, kept: bool = True, turned: int = 0, **changes: Any) -> Record:
        """Record a run that gets `right` of 100 samples right, from the sample `turned` on."""
        origin = changes.pop("provenance", {})
        record = make_record(metrics={"test/top1": right / SAMPLES}, **changes)
        record = dataclasses.replace(record, provenance=dataclasses.replace(record.provenance, **origin))
        self.store.write(record)
        self.records[record.id] = record
        if kept and record.status == "ok":
            correct = [int((index - turned) % SAMPLES < right) for index in range(SAMPLES)]
            frame = pandas.DataFrame({"label": 1, "predicted": correct, "probability": 0.5})
            self.store.write_predictions(record.id, frame)
        return record


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    return Side(tmp_path / "a"), Side(tmp_path / "b")


def compared(sides: tuple[Side, Side], *patterns: str) -> RecordSets:
    a, b = sides
    readers = OutcomeReader(a.store), OutcomeReader(b.store)
    return compare_records(a.records, b.records, outcomes=readers, patterns=patterns or ("*",))


def page(found: RecordSets, **options: Any) -> str:
    return record_set_forms.page(found, names=("one", "two"), **{"show": "differing", "markup": False, **options})


def test_states_of_matched_runs(sides: tuple[Side, Side]) -> None:
    a, b = sides
    for side in sides:
        side.add(right=70, seed=1)
        side.add(right=70, seed=2, kept=side is a)
    a.add(right=70, seed=3)
    b.add(right=70, seed=3, turned=2)
    a.add(right=70, seed=4)
    b.add(right=60, seed=4)
    a.add(right=70, seed=5)
    b.add(right=0, seed=5, status="failed", reason="out of memory")
    found = compared(sides)
    assert [run.state for run in found.matched] == [
        *("identical", "equal metrics", "other predictions", "other metrics", "not ok")
    ]
    assert set(found.counts.values()) == {1}
    text = page(found)
    assert "No test over samples for 1: B: no predictions.parquet beside the record." in text
    assert "randlora publish copies records without predictions" in text
    assert "failed: out of memory" in text
    assert "Only in A: 0. Only in B: 0." in text


def test_each_metric_has_mcnemars_test_and_holms_correction(sides: tuple[Side, Side]) -> None:
    a, b = sides
    a.add(right=70, seed=1)
    b.add(right=60, seed=1)
    a.add(right=50, seed=2)
    b.add(right=48, seed=2, turned=5)
    found = compared(sides)
    first, second = (run.metrics[0] for run in found.matched)
    assert (first.a_alone, first.b_alone, first.samples) == (10, 0, SAMPLES)
    assert first.difference == pytest.approx(-0.1)
    assert first.p == stats.binomtest(0, 10).pvalue
    assert (second.a_alone, second.b_alone) == (5, 3)
    assert second.p == stats.binomtest(3, 8).pvalue
    assert first.p_corrected == pytest.approx(2 * first.p)
    assert second.p_corrected == second.p
    (summary,) = found.summaries
    assert (summary.runs, summary.mean) == (2, pytest.approx(-0.06))
    assert summary.p == 0.5
    assert "Holm over 2 tests; 1 below 0.05" in page(found)


def test_what_differs_in_origin_is_listed_and_nothing_else(sides: tuple[Side, Side]) -> None:
    a, b = sides
    for seed in (1, 2):
        a.add(right=70, seed=seed, provenance={"commit": "1" * 40})
        other = {"versions": {"torch": "2.14.0", "timm": "1.0"}, "threads": 2 if seed == 2 else 1}
        b.add(right=70, seed=seed, provenance={"commit": "2" * 40, **other})
    found = {field.name: (dict(field.a), dict(field.b), field.differing) for field in compared(sides).origin}
    assert found == {
        "commit": ({"1" * 10: 2}, {"2" * 10: 2}, 2),
        "threads": ({"1": 2}, {"1": 1, "2": 1}, 1),
        "version of torch": ({"2.13.0": 2}, {"2.14.0": 2}, 2),
        "version of timm": ({"absent": 2}, {"1.0": 2}, 2),
    }
    text = page(compared(sides))
    assert "1 of 2" in text
    assert "precision" not in text


def test_runs_of_other_configs_are_matched_by_key_where_it_is_the_only_one(sides: tuple[Side, Side]) -> None:
    a, b = sides
    same = a.add(right=70, seed=1)
    b.add(right=70, seed=1)
    a.add(right=70, seed=2)
    b.add(right=60, seed=2, scale=3)
    for scale in (1, 2):  # two runs of one name: which of them is meant cannot be told
        a.add(right=70, seed=3, scale=scale)
    b.add(right=70, seed=3)
    found = compared(sides)
    assert [(run.by, run.a.key.seed) for run in found.matched] == [("id", 1), ("key", 2)]
    assert found.matched[0].a.id == same.id
    assert [record.key.seed for record in found.only_a] == [3, 3]
    assert [record.key.seed for record in found.only_b] == [3]
    assert [(field.name, dict(field.a), dict(field.b)) for field in found.config] == [
        ("scale", {"absent": 1}, {"3": 1})
    ]
    assert "Matched: 1 by id, 1 by key under another config." in page(found)
    assert f"{found.matched[1].a.id} / {found.matched[1].b.id}" in page(found)


def test_other_test_samples_are_not_paired(sides: tuple[Side, Side]) -> None:
    a, b = sides
    record = a.add(right=70)
    b.add(right=70)
    b.store.write_predictions(record.id, pandas.DataFrame({"label": 2, "predicted": [2] * 7 + [1] * 3}))
    (pair,) = compared(sides).matched[0].metrics
    assert (pair.p, pair.no_samples) == (None, "the predictions are of other test samples")


def test_show_and_patterns_choose_lines(sides: tuple[Side, Side]) -> None:
    for side in sides:
        side.add(right=70)
    assert "Matched runs" not in page(compared(sides))
    assert "70.00" in page(compared(sides), show="all")
    assert compared(sides, "*/accuracy").matched[0].metrics == ()
    assert page(compared(sides), show="all", markup=True).count("\n|") >= 3


def test_forms_for_programs(sides: tuple[Side, Side]) -> None:
    a, b = sides
    a.add(right=70, seed=1)
    b.add(right=60, seed=1)
    a.add(right=70, seed=2)
    b.add(right=0, seed=2, status="failed", reason="nan")
    a.add(right=1, seed=3)
    found = compared(sides)
    document = json.loads(record_set_forms.json(found, names=("one", "two")))
    lines = list(csv.DictReader(io.StringIO(record_set_forms.csv(found))))
    assert (document["a"], document["b"]) == ("one", "two")
    assert [(line["state"], line["a"], line["b"]) for line in lines] == [
        ("other metrics", "0.7", "0.6"),
        ("not ok", "", ""),
    ]
    assert document["matched"][0]["p"] == stats.binomtest(0, 10).pvalue
    assert len(document["only_a"]) == 1
    assert document["counts"]["not ok"] == 1


def test_sets_with_nothing_in_common(sides: tuple[Side, Side]) -> None:
    a, b = sides
    a.add(right=70, seed=1)
    b.add(right=70, seed=2)
    found = compared(sides)
    assert found.matched == found.summaries == ()
    assert "No run is in both." in page(found)
    assert json.loads(record_set_forms.json(found, names=("one", "two")))["matched"] == []
