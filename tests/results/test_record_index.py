"""The index of checked records: a cache that is never believed where a file has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from record_factory import make_key, make_record

import results.index
import results.store
from results.record import Record, RecordError
from results.records import Records
from results.store import RecordStore

Reads = list[str]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The ids of the records that are read and checked; every scan writes an index, of files just written too."""
    found: Reads = []
    read = results.store._read

    def counted(path: Path, id: str) -> results.store._Found:
        found.append(id)
        return read(path, id)

    monkeypatch.setattr(results.store, "_read", counted)
    monkeypatch.setattr(results.store, "_WORTH_AN_INDEX", 0)
    monkeypatch.setattr(results.index, "_SETTLED_NS", -10_000_000_000)
    return found


@pytest.fixture
def store(tmp_path: Path, reads: Reads) -> RecordStore:
    """Three records that were scanned once."""
    store = RecordStore(tmp_path / "runs")
    for record in records_of(1, 2, 3):
        path = store.folder(record.id) / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(record.to_json())
    assert store.scan().problems == ()
    assert (store.root / ".index").is_file()
    reads.clear()
    return store


def records_of(*seeds: int) -> list[Record]:
    return [
        make_record(seed=seed, status="failed", reason="why") if seed == 2 else make_record(seed=seed) for seed in seeds
    ]


def file_of(store: RecordStore, seed: int) -> Path:
    (record,) = records_of(seed)
    return store.folder(record.id) / "record.json"


def test_what_was_checked_is_not_read_again(store: RecordStore, reads: Reads) -> None:
    scan = store.scan()
    expected = {record.id: record for record in records_of(1, 2, 3)}
    assert reads == []
    assert list(scan.records) == sorted(expected)
    assert scan.records.with_status("failed") == (records_of(2)[0].id,)
    assert scan.records.ids_of(make_key(seed=3)) == [records_of(3)[0].id]
    assert scan.records.ids_of(make_key(seed=4)) == ()
    # all fields are equal, the config too, which is read now
    assert scan.records == expected
    assert [record.to_json() for record in scan.records.values()] == [expected[id].to_json() for id in sorted(expected)]


def test_the_config_is_read_when_somebody_looks(store: RecordStore) -> None:
    record = store.scan().records[records_of(1)[0].id]
    file_of(store, 1).unlink()
    assert record.metrics == {"test/top1": 0.873}
    with pytest.raises(RecordError, match="cannot be read any more"):
        record.config["seed"]


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_another_file(path: Path, text: str) -> None:
    other = path.with_name("new")
    other.write_text(text)
    other.replace(path)


def with_the_old_time(path: Path, text: str) -> None:
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [in_place, by_another_file, with_the_old_time])
@pytest.mark.parametrize("longer", [False, True])
def test_a_record_that_changed_is_checked(
    store: RecordStore, reads: Reads, change: Callable[[Path, str], None], longer: bool
) -> None:
    path = file_of(store, 1)
    # the result of another config: a record that a reader of the index alone would never find out
    text = path.read_text().replace('"rank": 4', '"rank": 40' if longer else '"rank": 5')
    change(path, text)
    scan = store.scan()
    assert reads == [path.parent.name]
    assert len(scan.records) == 2
    assert [problem.path for problem in scan.problems] == [path]
    assert "not the id of this config" in scan.problems[0].reason


def test_records_come_and_go(store: RecordStore, reads: Reads) -> None:
    file_of(store, 1).unlink()
    (added,) = records_of(4)
    store.write(added)
    reads.clear()
    scan = store.scan()
    assert reads == [added.id]
    assert sorted(scan.records) == sorted(record.id for record in records_of(2, 3, 4))
    reads.clear()
    assert store.scan() == scan
    assert reads == []


def test_a_folder_that_was_renamed_is_checked(store: RecordStore, reads: Reads) -> None:
    path = file_of(store, 1)
    path.parent.rename(path.parent.with_name("0" * 16))
    scan = store.scan()
    assert reads == ["0" * 16]
    assert "it is the record of run" in scan.problems[0].reason


def damaged(index: Path) -> None:
    text = index.read_bytes()
    index.write_bytes(text.replace(b"0.873", b"0.999"))


def cut(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-200])


def empty(index: Path) -> None:
    index.write_bytes(b"")


def of_another_version(index: Path) -> None:
    header, _, rest = index.read_bytes().partition(b"\n")
    index.write_bytes(header.replace(b"checked records ", b"checked records 0") + b"\n" + rest)


@pytest.mark.parametrize("harm", [damaged, cut, empty, of_another_version])
def test_an_index_that_cannot_be_trusted_is_made_again(
    store: RecordStore, reads: Reads, harm: Callable[[Path], None]
) -> None:
    index, before = store.root / ".index", store.scan()
    text = index.read_bytes()
    harm(index)
    assert index.read_bytes() != text
    assert store.scan() == before
    assert sorted(set(reads)) == sorted(before.records)
    assert index.read_bytes() == text


def test_files_that_were_just_written_are_not_believed_yet(
    store: RecordStore, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results.index, "_SETTLED_NS", 10_000_000_000)
    path = file_of(store, 1)
    path.write_text(path.read_text())
    for _ in range(2):
        reads.clear()
        assert len(store.scan().records) == 3
        assert reads == [path.parent.name]


def test_few_records_need_no_index(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    for record in records_of(1, 2, 3):
        store.write(record)
    assert len(store.scan().records) == 3
    assert not (tmp_path / ".index").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_read(store: RecordStore) -> None:
    (store.root / ".index").unlink()
    store.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert len(store.scan().records) == 3
        assert not (store.root / ".index").exists()
    finally:
        store.root.chmod(stat.S_IRWXU)


def test_a_refusing_disk_costs_the_index_alone(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.root / ".index").unlink()

    def refuse(_: Path, __: bytes) -> int:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert len(store.scan().records) == 3
    assert list(store.root.glob(".index*")) == []


def test_hidden_folders_are_no_runs(store: RecordStore) -> None:
    hidden = store.root / ".claims"
    hidden.mkdir()
    (hidden / "record.json").write_text("{")
    assert store.scan().problems == ()


def test_progress_is_told_of_what_is_checked(store: RecordStore) -> None:
    heard: list[tuple[int, int]] = []
    store.scan(on_read=lambda done, total: heard.append((done, total)))
    assert heard == []
    (store.root / ".index").unlink()
    store.scan(on_read=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_records_at_hand_are_found_by_key_too() -> None:
    made = {record.id: record for record in records_of(1, 2)}
    records = Records.of(made)
    assert Records.of(records) is records
    assert records == made
    assert records.ids_of(make_key(seed=1)) == [records_of(1)[0].id]
    assert records.with_status("failed") == (records_of(2)[0].id,)
    assert "0" * 16 not in records
    with pytest.raises(KeyError):
        records["0" * 16]
