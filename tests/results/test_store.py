from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from record_factory import make_record

from results.record import NewerRecordError, Record, RecordError
from results.records import Records
from results.store import RecordStore, Scan, StoreError


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def _fail_with(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)


def test_what_is_written_is_read_and_scanned(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "runs")
    assert store.scan().records == {}
    records = [make_record(seed=seed) for seed in (1, 2)] + [make_record(status="failed", reason="why", seed=3)]
    for record in records:
        assert store.write(record) == store.folder(record.id) / "record.json"
    assert store.scan().records == {record.id: record for record in records}
    assert store.scan().problems == ()
    assert store.read(records[0].id) == records[0]
    assert store.read("0" * 16) is None


def test_a_folder_of_a_run_under_way_is_no_problem(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.folder("0" * 16).mkdir()
    (tmp_path / "stray.txt").touch()
    assert store.scan() == Scan(records=Records({}), problems=())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"schema_version": 0}', "other"])
def test_a_corrupt_record_is_reported_and_kept(tmp_path: Path, content: bytes | str) -> None:
    store, good, bad = RecordStore(tmp_path), make_record(seed=1), make_record(seed=2)
    store.write(good)
    path = store.write(bad)
    content = good.to_json().encode() if isinstance(content, str) else content
    path.write_bytes(content)

    scan = store.scan()
    assert scan.records == {good.id: good}
    assert [problem.path for problem in scan.problems] == [path]
    assert "corrupt" in scan.problems[0].reason
    with pytest.raises(RecordError, match="corrupt"):
        store.read(bad.id)

    store.write(bad)
    assert store.read(bad.id) == bad
    assert path.with_name("record.corrupt-1.json").read_bytes() == content


def test_a_record_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store, good, later = RecordStore(tmp_path), make_record(seed=1), make_record(seed=2)
    store.write(good)
    path = store.write(later)
    text = path.read_text().replace('"schema_version": 1', '"schema_version": 2').replace('"metrics"', '"measured"')
    path.write_text(text)

    scan = store.scan()
    assert scan.records == {good.id: good}
    assert scan.problems == ()
    assert list(scan.newer) == [later.id]
    assert str(path) in scan.newer[later.id]
    assert "update this checkout" in scan.newer[later.id]
    with pytest.raises(NewerRecordError, match="update this checkout"):
        store.read(later.id)
    with pytest.raises(StoreError, match=r"update this checkout.*left as it is"):
        store.write(later)
    assert path.read_text() == text
    assert _files(path.parent) == ["record.json"]


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "writable")])
def test_a_refusing_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    store, record = RecordStore(tmp_path / "runs"), make_record()
    with monkeypatch.context() as patch:
        _fail_with(patch, number)
        with pytest.raises(StoreError, match=f"cannot write .*record.json: {os.strerror(number)}; .*{advice}"):
            store.write(record)
        assert _files(tmp_path) == []

    store.write(record)
    before = _files(tmp_path)
    _fail_with(monkeypatch, number)
    with pytest.raises(StoreError):
        store.write(dataclasses.replace(record, notes=("again",)))
    assert store.read(record.id) == record
    assert _files(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk(tmp_path: Path) -> None:
    from results.files import write_atomically

    def fill(_: Path) -> None:
        with Path("/dev/full").open("w") as stream:
            stream.write("x")

    with pytest.raises(StoreError, match="free some space"):
        write_atomically(tmp_path / "folder" / "record.json", fill)
    assert _files(tmp_path) == []


def test_a_file_in_the_place_of_the_root_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(StoreError, match="cannot write"):
        RecordStore(tmp_path / "runs").write(make_record())


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        RecordStore(tmp_path).write(make_record())
    assert _files(tmp_path) == []


def test_a_record_that_would_not_read_back_is_not_written(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    with pytest.raises(RecordError, match="metrics"):
        store.write(dataclasses.replace(make_record(), checks={"frozen": "yes"}, metrics={"a": object()}))  # type: ignore[dict-item]
    with pytest.raises(RecordError, match=r"record\.checks\.frozen"):
        store.write(dataclasses.replace(make_record(), checks={"frozen": "yes"}))  # type: ignore[dict-item]
    with pytest.raises(RecordError, match="read back"):
        store.write(dataclasses.replace(make_record(), notes=["a list"]))  # type: ignore[arg-type]
    assert _files(tmp_path) == []


@pytest.mark.parametrize("id", ["", "..", "../../etc", "ABC", "0" * 15])
def test_an_id_is_never_a_path(tmp_path: Path, id: str) -> None:
    with pytest.raises(StoreError, match="not a run id"):
        RecordStore(tmp_path).folder(id)


def test_predictions(tmp_path: Path) -> None:
    store, id = RecordStore(tmp_path), make_record().id
    frame = pandas.DataFrame({"index": [0, 1], "label": [3, 4], "prediction": [3, 5], "score": [0.9, 0.4]})
    path = store.write_predictions(id, frame)
    pandas.testing.assert_frame_equal(store.read_predictions(id), frame)
    path.write_bytes(b"not parquet")
    with pytest.raises(StoreError, match="cannot be read"):
        store.read_predictions(id)
    path.unlink()
    with pytest.raises(StoreError, match="run it again"):
        store.read_predictions(id)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("results.record, results.store", ("pandas", "numpy", "torch", "yaml")),
        ("results.render, results.rollup, results.table", ("pandas", "numpy", "torch", "matplotlib", "randlora")),
    ],
)
def test_importing_the_room_is_light(modules: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_record_is_a_value() -> None:
    assert make_record() == Record.from_json(make_record().to_json())
    assert make_record().key == make_record(rate=3).key
    assert make_record().id != make_record(rate=3).id
