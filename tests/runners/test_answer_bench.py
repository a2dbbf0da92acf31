"""`randlora answer_bench`: its files and its mistakes. No time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from configs import ROOT

import runners.answer_bench
from results.answer_record import PUBLISHED, AnswerBenchmark, AnswerResult, read, write
from results.answer_tables import csv, markdown
from results.bench_page import fill
from results.bench_record import Environment
from results.files import StoreError
from runners.cli import main

SMALL = ("count=3", "rounds=1", "seconds=0.1", "machine.threads=1", "machine.device=cpu")
SHORT = ("recipe.task.protocol.beams=2", "recipe.task.protocol.max_new_tokens=3")


def bench(*arguments: str) -> int:
    return main(["answer_bench", *SMALL, *arguments])


def test_files_hold_every_number_and_the_terminal_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "PAGE.md"
    page.write_text("<!-- bench: mine -->\nold\n<!-- end of bench -->\n")
    monkeypatch.setattr(runners.answer_bench, "PAGE", page)
    monkeypatch.setattr(runners.answer_bench, "PUBLISHED", tmp_path / "published")
    code = bench(*SHORT, "batch_sizes=[1,3]", "name=mine", f"to={tmp_path / 'out'}", "publish=true")
    out, err = capsys.readouterr()
    assert code == 0, err
    folder = tmp_path / "published" / "mine"
    assert {path.name for path in folder.iterdir()} == {"mine.json", "mine.md", "mine.csv"}
    found = read(folder / "mine.json")
    assert [way.label for way in found.ways] == [PUBLISHED, "batches of 1", "batches of 3"]
    assert all(way.different == 0 and len(way.seconds) == 1 and way.seconds[0] > 0 for way in found.ways)
    assert found.questions == 3
    assert found.environment.threads == 1
    assert found.model == "stories260k in float32"
    assert (found.protocol["beams"], found.protocol["max_new_tokens"]) == (2, 3)
    assert (folder / "mine.md").read_text(encoding="utf-8") == markdown(found)
    assert markdown(found) in out
    assert markdown(found).strip() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("rounds=0", "rounds=0: valid: a whole number of 1 or more"),
        ("count=1.5", "count=1.5: valid: a whole number"),
        ("seconds=-1", "seconds=-1: valid: a number above 0"),
        ("batch_sizes=[]", "valid: distinct whole numbers"),
        ("batch_sizes=16", "valid: distinct whole numbers"),
        ("batch_sizes=[0]", "valid: distinct whole numbers"),
        ("batch_sizes=[2,2]", "valid: distinct whole numbers"),
        ("name=a/b", "name=a/b: valid: letters"),
        ("publish=maybe", "publish=maybe: valid: true or false"),
        ("recipe=micro_clip", "answers no questions"),
        ("dataset=mini_mnist", "holds no questions"),
        ("backbone=micro_clip", "needs a language model"),
    ],
)
def test_mistakes_are_one_line(wrong: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(wrong) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "Loading weights" not in line]
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert message in err[0]


def document(*ways: AnswerResult) -> AnswerBenchmark:
    place = Environment(
        device="cpu: any",
        cores=2,
        threads=1,
        versions={"torch": "2"},
        commit=None,
        dirty=None,
        command="randlora answer_bench",
        started_at="2026-01-01T00:00:00+00:00",
    )
    return AnswerBenchmark(
        name="x",
        model="a in float32",
        dataset="b",
        questions=8,
        tokens=(3, 5, 9),
        protocol={"beams": 4, "max_new_tokens": 32},
        environment=place,
        ways=ways,
    )


def test_ratios_are_taken_within_rounds(tmp_path: Path) -> None:
    slow = AnswerResult(label=PUBLISHED, seconds=(8.0, 4.0, 16.0), different=0, alone=0)
    fast = AnswerResult(label="batches of 8", seconds=(1.0, 2.0, 4.0), different=2, alone=1)
    found = document(slow, fast)
    assert found.relative(fast).median == 4.0  # of 8, 2 and 4
    assert found.rate(fast).median == 4.0
    assert found.relative(slow).median == 1.0
    assert read(write(found, tmp_path / "x.json")) == found
    row = next(line for line in markdown(found).splitlines() if line.startswith("| batches of 8"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "batches of 8",
        "4.00 (2.40 to 7.20)",
        "4.00 (2.40 to 7.20)",
        "2",
        "1",
    ]
    assert csv(found).splitlines()[2] == "batches of 8,8,3,2.0,4.0,4.0,2,1"


def test_a_file_that_is_no_such_benchmark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in ("{", '{"schema": 99}', '{"schema": 1, "name": "x"}'):
        path.write_text(content)
        with pytest.raises(StoreError, match="measure it again with randlora answer_bench"):
            read(path)


PLACE = ROOT / "results" / "published" / "answers"
NAMES = sorted(path.name for path in PLACE.glob("*") if path.is_dir())


def test_the_page_shows_every_published_benchmark_as_it_is() -> None:
    text = (ROOT / "docs" / "COMMONSENSE.md").read_text(encoding="utf-8")
    assert fill(text, PLACE) == text
    for name in NAMES:
        assert f"<!-- bench: {name} -->" in text


@pytest.mark.parametrize("name", NAMES)
def test_published_tables_are_those_of_the_published_numbers(name: str) -> None:
    published = read(PLACE / name / f"{name}.json")
    assert published.name == name
    for form, end in ((markdown, "md"), (csv, "csv")):
        assert form(published) == (PLACE / name / f"{name}.{end}").read_text(encoding="utf-8")
