"""`randlora input_bench`: its files, its ways of feeding and its mistakes. No time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from configs import ROOT

import runners.input_bench
from results.bench_page import fill, named
from results.bench_record import Environment
from results.files import StoreError
from results.input_record import CONSTANT, FeedResult, InputBenchmark, InputCase, read, write
from results.input_tables import csv, markdown
from runners.cli import main

SMALL = ("rounds=1", "steps=2", "machine.threads=1", "recipe.batch_size=4", "seconds=0.1")
ONE_SET = ("~dataset@train.mini_mnist", "~dataset@train.mini_eurosat", "~dataset@train.mini_gtsrb")
ONE_SET = (*ONE_SET, "~dataset@train.fashion_mnist", "~dataset@pixels.mini_eurosat")
WAYS = ["stored, on the device", "stored, read ahead", "original, 0 workers", "original, 1 worker"]


def bench(*arguments: str) -> int:
    return main(["input_bench", *SMALL, *arguments])


def test_files_hold_every_number_and_the_terminal_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "PAGE.md"
    page.write_text("<!-- bench: mine -->\nold\n<!-- end of bench -->\n")
    monkeypatch.setattr(runners.input_bench, "PAGE", page)
    monkeypatch.setattr(runners.input_bench, "PUBLISHED", tmp_path / "published")
    code = bench(*ONE_SET, "workers=[0,1]", "sizes=[24]", "name=mine", f"to={tmp_path / 'out'}", "publish=true")
    out, err = capsys.readouterr()
    assert code == 0, err
    folder = tmp_path / "published" / "mine"
    assert {path.name for path in folder.iterdir()} == {"mine.json", "mine.md", "mine.csv"}
    assert (tmp_path / "out" / "mine.json").read_bytes() == (folder / "mine.json").read_bytes()
    found = read(folder / "mine.json")
    training, pixels = found.cases
    assert (training.kind, training.size, training.images, training.batch_size) == ("training", 32, 300, 4)
    assert (pixels.kind, pixels.size, min(pixels.source_pixels)) == ("pixels", 24, 96)
    assert [feed.label for feed in training.feeds] == [CONSTANT, *WAYS]
    assert [feed.label for feed in pixels.feeds] == WAYS
    for feed in (*training.feeds, *pixels.feeds):
        assert len(feed.batch_s) == len(feed.wait_s) == 1
        assert 0 < feed.wait_s[0] <= feed.batch_s[0]
    assert found.environment.threads == 1
    assert (folder / "mine.md").read_text(encoding="utf-8") == markdown(found)
    assert markdown(found) in out
    assert markdown(found).strip() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("rounds=0", "rounds=0: valid: a whole number of 1 or more"),
        ("steps=1.5", "steps=1.5: valid: a whole number"),
        ("seconds=-1", "seconds=-1: valid: a number above 0"),
        ("only=both", "only=both: valid: training, pixels, or null"),
        ("sizes=[]", "valid: a list of whole numbers of 1 or more"),
        ("sizes=32", "valid: a list of whole numbers of 1 or more"),
        ("workers=[-1]", "valid: a list of whole numbers of 0 or more"),
        ("name=a/b", "name=a/b: valid: letters"),
        ("publish=maybe", "publish=maybe: valid: true or false"),
        ("recipe=linear_head method=lora method.rank=100000", "rank"),
        ("machine.workers=-1", "workers"),
        ("machine.resident_mib=-3", "resident_mib"),
    ],
)
def test_mistakes_are_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*wrong.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def case(kind: str, *feeds: FeedResult) -> InputCase:
    return InputCase(
        dataset="Cars",
        kind=kind,  # type: ignore[arg-type]
        size=32,
        source_pixels=(96, 128),
        images=9,
        batch_size=8,
        feeds=feeds,
    )


def document(*cases: InputCase) -> InputBenchmark:
    place = Environment(
        device="cpu: any",
        cores=2,
        threads=1,
        versions={"torch": "2"},
        commit=None,
        dirty=None,
        command="randlora input_bench",
        started_at="2026-01-01T00:00:00+00:00",
    )
    return InputBenchmark(name="x", model="a with b", settings={}, steps=3, environment=place, cases=cases)


def test_throughput_is_taken_within_rounds_and_relative_to_the_constant_batch(tmp_path: Path) -> None:
    constant = FeedResult(label=CONSTANT, batch_s=(1.0, 2.0, 4.0), wait_s=(0.0, 0.0, 0.0))
    slow = FeedResult(label="slow", batch_s=(2.0, 2.5, 5.0), wait_s=(1.0, 0.5, 1.0))
    found = document(case("training", constant, slow), case("pixels", slow))
    training, pixels = found.cases
    relative = training.relative(slow)
    assert relative is not None
    assert relative.median == 0.8  # of 0.5, 0.8, 0.8: not 2 / 2.5 of the medians' order
    assert training.rate(slow).median == 8 / 2.5
    assert pixels.relative(slow) is None
    assert read(write(found, tmp_path / "x.json")) == found
    text = markdown(found)
    assert "| slow           | 0.800 (0.560 to 0.800) |" in text
    assert "20.0 %" in text
    assert "Cars, 96 x 128 to 32" in text
    lines = csv(found).splitlines()
    assert len(lines) == 1 + 2 + 1
    assert lines[2] == "training,Cars,32,8,9,slow,3,2.5,1.0,3.2,0.8"
    assert lines[3].endswith("3.2,")


def test_a_file_that_is_no_such_benchmark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in ("{", '{"schema": 99}', '{"schema": 1, "name": "x"}'):
        path.write_text(content)
        with pytest.raises(StoreError, match="measure it again with randlora input_bench"):
            read(path)
    with pytest.raises(StoreError, match="cannot read"):
        read(tmp_path / "absent.json")


PUBLISHED = ROOT / "results" / "published" / "input"
PUBLISHED_NAMES = sorted(path.name for path in PUBLISHED.glob("*") if path.is_dir())


def test_the_page_shows_every_published_benchmark_as_it_is() -> None:
    text = (ROOT / "docs" / "DATA_PIPELINE.md").read_text(encoding="utf-8")
    assert set(PUBLISHED_NAMES) <= set(named(text))
    assert fill(text, PUBLISHED) == text


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_published_tables_are_those_of_the_published_numbers(name: str) -> None:
    published = read(PUBLISHED / name / f"{name}.json")
    assert published.name == name
    assert published.cases
    for form, end in ((markdown, "md"), (csv, "csv")):
        assert form(published) == (PUBLISHED / name / f"{name}.{end}").read_text(encoding="utf-8")
