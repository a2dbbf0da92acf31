"""The verbs `compare` and `differences` on small real runs, and what they say about wrong questions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from lab import ROOT, Outcome, write_table

from results.outcomes import NoOutcomesError, outcomes_of
from results.store import RecordStore
from runners.judged_table import metrics_of

Command = Callable[..., Outcome]


@pytest.fixture
def other(swept: Path, tmp_path: Path) -> Path:
    """A copy of the swept runs, in a folder whose name has what Hydra's grammar reads as more."""
    folder = tmp_path / "other, it's {here}"
    shutil.copytree(swept / "results", folder)
    return folder


def test_a_copy_is_identical_by_two_words(command: Command, swept: Path, other: Path) -> None:
    outcome = command("compare", str(swept / "results"), str(other))
    assert outcome.code == 0, outcome.err
    assert "Matched: 4 by id, 0 by key" in outcome.out
    assert "4 identical: metrics and predictions are bitwise equal." in outcome.out
    assert "Where the runs come from" not in outcome.out
    named = command("compare", f"a={swept / 'results'}", f"b={swept / 'results'}")
    assert "4 identical" in named.out


def test_without_predictions_it_says_so(command: Command, swept: Path, other: Path) -> None:
    for file in other.glob("*/predictions.parquet"):
        file.unlink()
    outcome = command("compare", str(swept / "results"), str(other), "format=json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["counts"]["equal metrics"] == 4
    assert {line["no_samples"] for line in document["matched"]} == {"B: no predictions.parquet beside the record"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{a}"], "give b=…"),
        ([], "give a=…, b=…"),
        (["{a}", "nowhere"], "nowhere: there is no such folder; give one of records, such as results/runs"),
        (["{a}", "{empty}"], "holds no record; give a folder with one folder per run"),
        (["{a}", "{a}", "show=none"], "show=none: valid: differing, all"),
        (["{a}", "{a}", "format=html"], "format=html: valid: text, markdown, json, csv"),
        (["{a}", "{a}", "metric=test/top5"], "metric=test/top5 is none of test/top1"),
        (["{a}", "{a}", "{a}"], "cannot read the override"),
    ],
)
def test_wrong_questions_end_in_one_line(
    command: Command, swept: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    words = [each.format(a=swept / "results", empty=tmp_path / "empty") for each in arguments]
    outcome = command("compare", *words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert said in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.fixture
def small(experiments: Path, swept: Path, tmp_path: Path) -> list[str]:
    """What to type for the differences of the table ``small``."""
    write_table(experiments, "small")
    return ["differences", "table=small", f"records={swept / 'results'}", f"to={tmp_path / 'tables'}"]


def test_differences_are_printed_and_written(command: Command, small: list[str], tmp_path: Path, swept: Path) -> None:
    outcome = command(*small)
    assert outcome.code == 0, outcome.err
    assert "Holm over the" in outcome.out
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == [
        f"small_differences.{suffix}" for suffix in ("csv", "json", "md", "png")
    ]
    (one,) = json.loads((tmp_path / "tables" / "small_differences.json").read_text())["comparisons"]
    records = RecordStore(swept / "results").scan().records.values()
    means = {
        name: sum(record.metrics["test/top1"] for record in records if record.key.method.startswith(name)) / 2
        for name in ("lora", "vera")
    }
    assert one["difference"] == pytest.approx(means["lora"] - means["vera"])
    assert 0 < one["p_samples"] <= 1
    assert one["columns"][0]["samples"] > 10


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("over=images", "over=images: valid: datasets, seeds, samples"),
        ("reference=DoRA", "there is no row 'DoRA'; valid: LoRA, VeRA"),
        ("format=latex", "format=latex: valid: text, markdown, json, csv"),
        ("where={seed: [9]}", "there is no label '9'; valid: 1, 2"),
    ],
)
def test_wrong_questions_about_differences(command: Command, small: list[str], argument: str, said: str) -> None:
    outcome = command(*small, argument)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err


def test_outcomes_of_judged_questions_are_what_their_metrics_are_means_of() -> None:
    answers = ["true", "false", "true", "false", "true"]
    frame = pandas.DataFrame(
        {
            "task": ["boolq"] * 3 + ["copa"] * 2,
            "index": [0, 1, 2, 0, 1],
            "answer": answers,
            "options": [["true", "false"]] * 5,
            "extracted": ["true", "", "false", "false", "true"],
            "log_probability": [[-1.0, -2.0]] * 5,
            "tokens": [[1, 2]] * 5,
            "likelihood": ["true"] * 5,
            "likelihood_normalised": ["false"] * 5,
        }
    )
    metrics, tested = metrics_of(frame), []
    for metric, value in metrics.items():
        try:
            found = outcomes_of(frame, metric)
        except NoOutcomesError:
            continue
        assert found.right.mean() == pytest.approx(value)
        tested.append(metric)
    assert tested == [
        f"{task}/{name}" for task in ("boolq", "copa") for name in ("accuracy", "likelihood", "likelihood_normalised")
    ]


PUBLISHED = sorted((ROOT / "results" / "published").glob("*/*_differences.md"))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_published_differences_are_those_of_the_published_records(command: Command, file: Path, tmp_path: Path) -> None:
    outcome = command(
        "differences", f"table={file.parent.name}", f"records={file.parent / 'records'}", f"to={tmp_path}"
    )
    assert outcome.code == 0, outcome.err
    for suffix in ("md", "csv", "json"):
        assert (tmp_path / f"{file.stem}.{suffix}").read_bytes() == file.with_suffix(f".{suffix}").read_bytes()


def test_the_page_shows_the_published_differences_of_the_demo(command: Command, tmp_path: Path) -> None:
    assert "demo_differences" in {file.stem for file in PUBLISHED}
    records = ROOT / "results" / "published" / "demo" / "records"
    shown = command("differences", "table=demo", f"records={records}", f"to={tmp_path}").out
    assert shown.count("\n") > 10
    assert shown.strip() in (ROOT / "docs" / "STATISTICS.md").read_text(encoding="utf-8")


HELP = """
import contextlib, io, sys
from runners.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    codes = [main([verb, "--help"]) for verb in ("differences", "compare", "table", "status")]
print(codes, [name for name in ("scipy", "pandas", "matplotlib") if name in sys.modules])
"""


def test_help_loads_no_library_of_statistics() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[0, 0, 0, 0] []"


def test_tables_show_intervals_where_asked(command: Command, small: list[str]) -> None:
    table = ["table", *small[1:]]
    interval, std = (command(*table, f"spread={spread}") for spread in ("interval", "std"))
    assert interval.code == std.code == 0
    assert "half the 95 % interval of the mean (Student's t, n = 2) over seed 1, 2" in interval.out
    assert "sample standard deviation" in std.out
    assert interval.out != std.out
    entry = json.loads(command(*table, "format=json").out)["rows"][0]["entries"][0]
    assert entry["n"] == 2
    assert entry["mean_high"] - entry["mean_low"] == pytest.approx(2 * 12.706204736 * entry["std"] / 2**0.5)
    wrong = command(*table, "spread=range")
    assert wrong.code == 2
    assert "spread=range: valid: std, interval" in wrong.err
