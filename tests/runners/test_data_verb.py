"""The verb data: what it tells of every dataset, what it prepares and finds wrong, and that runs read what is there."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import PETS, ROOT, Lab, Outcome, thin_out

from randlora.data.prepared import PreparedStore
from runners.compose import CONF
from runners.interrupt import Interrupted

Command = Callable[..., Outcome]
SETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
PAPER = ROOT / "results" / "paper" / "image_datasets.csv"
HUB = "dtd"  # one that only the hub has


@pytest.fixture
def data(command: Command, images: Path, tmp_path: Path) -> Command:
    """Call the verb on a store of its own and the thinned-out pets."""
    folders = [f"machine.data_root={images}", f"machine.prepared_root={tmp_path / 'prepared'}"]
    return lambda *arguments: command("data", *arguments, *folders)


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)


def rows(outcome: Outcome) -> dict[str, dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return {row["dataset"]: row for row in json.loads(outcome.out)}


def test_status_tells_of_every_dataset(data: Command) -> None:
    table = rows(data("status", "format=json"))
    assert sorted(table) == SETS
    assert {row["verified"] for row in table.values()} == {False}
    assert table["pets3"]["state"] == "here"
    assert table["pets3"]["to_do"] == "randlora data prepare dataset=pets3"
    assert table["pets3"]["disk_bytes"] == (300 + 298) * 3 * 224**2
    assert table[HUB]["state"] == "missing"
    assert "dataset.sources.folder.path=…" in table["image_folder"]["to_do"]
    assert data("status", "size=32", "dataset=pets3").out.count("randlora data prepare dataset=pets3 size=32") == 1


def test_status_puts_sizes_beside_those_of_the_paper(data: Command) -> None:
    table = {row["title"]: row for row in rows(data("status", "format=json")).values()}
    lines = list(csv.DictReader(PAPER.open(encoding="utf-8")))
    assert len(lines) == 22
    for line in lines:
        row = table.get(line["dataset"]) or table[line["dataset"].partition(" (")[0]]
        printed = [int(line[column].replace(",", "")) for column in ("train", "val", "test", "classes")]
        assert [row[f"paper_{name}"] for name in ("train", "validation", "test", "classes")] == printed
        assert row["licence"]
    assert table["Pets (3 of 37)"]["paper_train"] is None


def test_status_as_text_and_csv(data: Command) -> None:
    shown = data("status", f"dataset=[pets3,{HUB}]").out
    assert "270 / 30 / 298; 3" in shown
    assert "3,384 / 376 / 1,880; 47" in shown
    assert shown.count("not yet verified") == 2
    assert "0 of 2 prepared at 224 px" in shown
    written = list(csv.DictReader(io.StringIO(data("status", f"dataset=[pets3,{HUB}]", "format=csv").out)))
    assert [line["dataset"] for line in written] == ["pets3", HUB]


def test_status_knows_the_caches_of_the_hub(data: Command, tmp_path: Path) -> None:
    described = rows(data("status", f"dataset={HUB}", "format=json"))[HUB]["source"]
    owner, _, name = described.partition(": ")[2].partition("/")
    snapshot = tmp_path / "hub" / f"datasets--{owner}--{name}" / "snapshots" / "0" / "data"
    snapshot.mkdir(parents=True)
    assert rows(data("status", f"dataset={HUB}", "format=json"))[HUB]["state"] == "missing"
    (snapshot / "train-0.parquet").touch()
    assert rows(data("status", f"dataset={HUB}", "format=json"))[HUB]["state"] == "cached"
    blobs = snapshot.parents[2] / "blobs"
    blobs.mkdir()
    (blobs / "abc.incomplete").touch()
    assert rows(data("status", f"dataset={HUB}", "format=json"))[HUB]["state"] == "partly cached"


def test_prepare_verify_and_status_of_what_is_prepared(data: Command, tmp_path: Path) -> None:
    outcome = data("prepare", *PETS, "size=32")
    assert outcome.code == 0, outcome.err
    first, second, third, last = outcome.out.splitlines()
    assert first == "pets3 train: 60 images, 3 classes, 0 skipped"
    assert second.startswith("pets3 validation: 6 images, ")
    assert third == "pets3 test: 60 images, 3 classes, 0 skipped"
    assert last.startswith(str(tmp_path / "prepared" / "pets3" / "32-"))
    assert last.endswith(" images/s)")
    assert data("prepare", *PETS, "size=32").out.splitlines()[-1].endswith("prepared before)")
    row = rows(data("status", "size=32", "dataset=pets3", "format=json"))["pets3"]
    assert (row["state"], row["prepared_sizes"], row["verified"], row["to_do"]) == ("prepared", "32", True, "")
    assert (row["train"], row["validation"], row["test"], row["classes"]) == (54, 6, 60, 3)
    other = rows(data("status", "dataset=pets3", "dataset.version=7", "format=json"))["pets3"]
    assert (other["state"], other["prepared_sizes"], other["verified"]) == ("here", "", True)
    assert data("verify", *PETS).out.count("as prepared") == 3
    smaller = data("verify", "dataset=pets3")
    assert smaller.code == 1
    assert "train part: 60 images were prepared, sizes states 300" in smaller.err
    (images,) = (tmp_path / "prepared").rglob("test.images.npy")
    with images.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    found = data("verify", *PETS)
    assert found.code == 1
    assert (found.out.count("as prepared"), found.out.count("differs")) == (2, 1)
    assert found.err.startswith(f"error: {images} was altered: ")
    assert len(found.err.splitlines()) == 1


def test_one_of_several_that_fails_does_not_stop_the_others(data: Command) -> None:
    outcome = data("prepare", "dataset=[fashion_mnist,pets3]", "dataset.sizes=null", "size=16")
    assert outcome.code == 2
    assert "error: there is no file " in outcome.err
    assert outcome.err.splitlines()[-1] == "1 prepared, 1 failed: fashion_mnist"
    assert "pets3 train: 60 images, 3 classes, 0 skipped" in outcome.out


def test_prepare_what_a_table_needs(
    data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "title": "Two backbones",
        "metric": "test/top1",
        "axes": {
            "dataset": {"Pets": list(PETS)},
            "backbone": {"micro": ["backbone=micro_clip"], "full": ["backbone=clip_vit_b32"]},
            "method": {"LoRA": ["method=lora"], "VeRA": ["method=vera"]},
        },
        "rows": ["method"],
        "columns": ["backbone", "dataset"],
    }
    (tmp_path / "small.yaml").write_text(json.dumps(small))
    monkeypatch.setattr("runners.tables.EXPERIMENTS", tmp_path)
    assert data("prepare", "table=small").code == 0
    folders = {folder.name.partition("-")[0] for folder in (tmp_path / "prepared" / "pets3").glob("[!.]*")}
    assert folders == {"32", "224"}


MISTAKES = {
    "no action": ((), "say what to do: randlora data status or randlora data prepare or randlora data verify"),
    "another action": (("fetch",), "say what to do: randlora data status or"),
    "action as a field": (("action=fetch",), "action=fetch: valid: status, prepare, verify"),
    "nothing to prepare": (("prepare",), "give dataset=… or table=…, one of the two; datasets: arc_challenge, "),
    "both": (("prepare", "dataset=pets3", "table=demo"), "give dataset=… or table=…, one of the two"),
    "dataset": (("prepare", "dataset=[pets3,petz]"), "dataset=petz: there is no such dataset; valid: arc_challenge"),
    "field": (("prepare", "dataset=pets3", "dataset.versoin=1"), "did you mean dataset.version?"),
    "table": (("prepare", "table=nope"), "no table 'nope'"),
    "size": (("prepare", "dataset=pets3", "size=0"), "size=0: valid: a whole number of 1 or more, or null"),
    "size of a table": (("prepare", "table=demo", "size=32"), "size=32: leave it out with table="),
    "workers": (("prepare", "dataset=pets3", "workers=two"), "workers=two: valid: a whole number"),
    "format": (("status", "format=html"), "format=html: valid: text, json, csv"),
    "table of status": (("status", "table=demo"), "table=demo: status does not read it"),
    "not prepared": (("verify", "dataset=pets3"), "pets3 is not prepared; randlora data prepare dataset=pets3"),
    "fields to give": (("prepare", "dataset=image_folder"), "dataset needs dataset.classes=…, dataset.sources.folder."),
    "sizes that differ": (
        ("prepare", "dataset=pets3", "size=32"),
        "holds 60 images, sizes states 300",
    ),
    "no images": (
        ("prepare", "dataset=pets3", "dataset.sources.parquet.path=nowhere"),
        "error: there is no file ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line(mistake: str, data: Command, tmp_path: Path) -> None:
    arguments, message = MISTAKES[mistake]
    outcome = data(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""
    assert not list((tmp_path / "prepared").rglob("*.npy"))


def test_without_a_network_the_hub_is_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    arguments = ["data", "prepare", f"dataset={HUB}", f"machine.prepared_root={tmp_path / 'prepared'}"]
    ended = subprocess.run(
        [sys.executable, "-m", "runners.cli", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: cannot read split 'train' of HubSource")
    assert "prepare the dataset where there is a network" in line


def test_help_explains_the_three_actions(command: Command) -> None:
    for arguments in (["--help"], ["prepare", "--help"]):
        shown = command("data", *arguments)
        assert shown.code == 0
        for action in ("status", "prepare", "verify"):
            assert f"randlora data {action}" in shown.out


def test_status_and_help_import_nothing_heavy() -> None:
    script = (
        "import sys; from runners.cli import main; main(['data', 'status']); main(['data', '--help']); "
        "print(sorted({'torch', 'datasets', 'PIL', 'open_clip'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "[]"


@pytest.fixture
def own(tmp_path: Path) -> Lab:
    """A lab with images of its own, which no cache of the session knows."""
    for split in ("train", "test"):
        file = Path("assets") / "data" / "pets3" / f"{split}.parquet"
        thin_out(ROOT / file, tmp_path / "images" / file)
    return Lab(results=tmp_path / "results", images=tmp_path / "images")


def test_a_run_prepares_what_it_needs_and_the_next_one_reads_it(
    own: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own.run("method=lora", "method.rank=1")
    record = own.execute(run)
    assert record.status == "ok", record.reason
    assert "pets3 train+validation: 60 images, 3 classes, 0 skipped" in capsys.readouterr().err
    found = PreparedStore(folder=run.machine.prepared_path).find(run.dataset, 32)
    assert found is not None
    parts = found.manifest.parts
    assert record.provenance.data_digests == {part: parts[part].digest for part in ("train", "test")}
    shutil.rmtree(own.images / "assets")
    monkeypatch.setattr("randlora.data.cache.DecodedCache.get", _uncached)
    again = own.beside("again")
    assert again.trained(run_of(again)) == own.trained(run)


def run_of(lab: Lab) -> Any:
    run = lab.run("method=lora", "method.rank=1")
    assert lab.execute(run).status == "ok"
    return run


def _uncached(_: object, dataset: Any, *, part: Any, size: int, root: Path, store: PreparedStore, **__: Any) -> Any:
    return store.prepare(dataset, size, root=root).part(part)


def test_a_disk_that_refuses_fails_no_run(own: Lab, command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = command("run", *own.overrides("method=lora", f"machine.prepared_root={tmp_path / 'file' / 'x'}"))
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("error: cannot write prepared images in ")
    assert not list(own.results.rglob("record.json"))


def test_a_run_can_be_stopped_while_it_prepares(own: Lab) -> None:
    run = own.run("method=lora", "method.rank=1")
    with pytest.raises(Interrupted, match="interrupted while preparing pets3; run it again to go on"):
        own.execute(run, stop_after=0)
    assert own.store.read(run.id) is None
    assert own.execute(run).status == "ok"
