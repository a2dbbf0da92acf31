"""The verb data on language datasets: what it counts, what it says is missing or differs, and what it refuses."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, Outcome

from randlora.data.question import digest_of, read_questions

Command = Callable[..., Outcome]
EMBEDDED = ROOT / "assets" / "data" / "commonsense"
TASKS = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
KEPT = {"train": 12, "test": 5}
# micro_commonsense with as many questions as are kept, and boolq without numbers
SIZES = {"train": 8 * KEPT["train"], **dict.fromkeys(TASKS, KEPT["test"])}
SMALL = (
    "dataset=micro_commonsense",
    f"dataset.sizes={{{','.join(f'{key}: {size}' for key, size in SIZES.items())}}}",
    f"dataset.sha256={{{','.join(f'{key}: null' for key in SIZES)}}}",
)
BOOLQ = ("dataset=boolq", "dataset.source=folder")
UNCHECKED = ("dataset.sizes={train: null, boolq: null}", "dataset.sha256={train: null, boolq: null}")


@pytest.fixture
def data(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call the verb with the first of the embedded questions as the folder, and without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = tmp_path / "root"
    for file in EMBEDDED.glob("*/*.jsonl.gz"):
        lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
        kept = gzip.compress(b"".join(lines[: KEPT[file.name.partition(".")[0]]]))
        for folder in (root / "assets" / "data" / "commonsense", root / "commonsense"):
            (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / file.parent.name / file.name).write_bytes(kept)
    return lambda *arguments: command("data", *arguments, f"machine.data_root={root}")


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    return tmp_path / "root" / "assets" / "data" / "commonsense"


def row_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    (row,) = json.loads(outcome.out)
    return dict(row)


def test_status_counts_what_is_here_beside_what_is_stated(data: Command) -> None:
    row = row_of(data("status", *SMALL, "format=json"))
    assert (row["state"], row["train"], row["test"], row["to_do"]) == ("here", 96, 40, "")
    shown = data("status", *SMALL).out
    assert "96 / 96" in shown
    assert "8 of 8" in shown
    assert "40 / 40" in shown
    assert "disk at 224" not in shown


def test_status_tells_missing_partly_here_and_differing_apart(data: Command, embedded: Path) -> None:
    row = row_of(data("status", "dataset=boolq", "format=json"))
    assert (row["state"], row["to_do"]) == ("missing", "randlora data prepare dataset=boolq")
    assert row["source"].startswith("llm_adapters: AGI-Edgerunners/LLM-Adapters")
    assert row_of(data("status", *BOOLQ, *UNCHECKED, "format=json"))["state"] == "here"
    differs = data("status", *BOOLQ)
    assert "differs" in differs.out
    assert "holds 12, sizes states 9,427" in differs.out
    (embedded / "piqa" / "test.jsonl.gz").unlink()
    assert row_of(data("status", *SMALL, "format=json"))["state"] == "partly here"
    assert "there is neither piqa/test" in data("status", *SMALL).out
    shutil.rmtree(embedded)
    lost = row_of(data("status", *SMALL, "format=json"))
    assert lost["state"] == "missing"
    assert lost["to_do"].endswith("prepare dataset=micro_commonsense dataset.sources.embedded.path=…")


def test_the_embedded_questions_are_as_stated(command: Command) -> None:
    outcome = command("data", "prepare", "dataset=micro_commonsense")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "micro_commonsense train: 15,000 questions, digest as stated"
    assert lines[1] == "micro_commonsense test, boolq: 300 questions, digest as stated"
    assert len(lines) == 9


def test_images_and_questions_stand_in_tables_of_their_own(data: Command) -> None:
    shown = data("status", "dataset=[pets3,boolq,micro_commonsense]").out
    tables = [block for block in shown.split("\n\n") if block.startswith("dataset")]
    assert [("boolq" in table, "pets3" in table) for table in tables] == [(False, True), (False, True), (True, False)]
    lines = list(csv.DictReader(io.StringIO(data("status", "dataset=[pets3,boolq]", "format=csv").out)))
    assert [line["dataset"] for line in lines] == ["pets3", "boolq"]
    assert lines[1]["train"] == "9427"


def test_prepare_says_what_was_checked(data: Command) -> None:
    lines = data("prepare", *BOOLQ, *UNCHECKED).out.splitlines()
    assert lines == ["boolq train: 12 questions, not checked", "boolq test, boolq: 5 questions, not checked"]
    assert data("prepare", *SMALL).out.splitlines()[0].endswith("train: 96 questions, number as stated, no digest")


def test_verify_compares_digests(data: Command, embedded: Path) -> None:
    file = embedded / "boolq" / "test.jsonl.gz"
    stated = f"dataset.sha256.boolq={digest_of(read_questions(file))}"
    whole = data("verify", *SMALL, stated)
    assert (whole.code, whole.out.count("digest as stated")) == (0, 1), whole.err
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    file.write_bytes(gzip.compress(b"".join(lines[::-1])))
    found = data("verify", *SMALL, stated, "format=json")
    assert found.code == 1
    assert [row["part"] for row in json.loads(found.out) if row["result"] == "differs"] == ["boolq"]
    (line,) = found.err.splitlines()
    assert "5 questions as stated, but their digest is" in line
    assert "dataset.sha256.boolq=null" in line


def test_verify_of_everything_looks_at_what_is_here(data: Command, embedded: Path) -> None:
    shutil.rmtree(embedded.parents[2])
    outcome = data("verify")
    assert (outcome.code, outcome.out, outcome.err) == (0, "nothing is prepared\n", "")


MISTAKES = {
    "no network": (("prepare", "dataset=boolq"), "dataset/boolq/train.json (HF_HUB_OFFLINE is set); run the same"),
    "no folder": (("prepare", *SMALL, "dataset.sources.embedded.path=nowhere"), "there is neither boolq/train"),
    "a size of pixels": (("prepare", *SMALL, "size=32"), "size=32: prepare does not read it"),
    "other numbers": (("prepare", *SMALL, "dataset.sizes.train=9"), "holds 96, sizes states 9"),
    "a draw too large": (
        ("prepare", "dataset=commonsense_available", "dataset.draw.count=20000"),
        "20,000 questions are to be drawn, there are 96; lower draw.count",
    ),
    "a source": (
        ("prepare", "dataset=boolq", "dataset.source=hub"),
        "source is 'hub'; give one of llm_adapters,",
    ),
    "a field": (("prepare", *SMALL, "dataset.drew=null"), "did you mean dataset.draw?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line(mistake: str, data: Command) -> None:
    arguments, message = MISTAKES[mistake]
    outcome = data(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""
