"""Killed, doubled, refused by the disk or by the data: what preparing leaves is whole or does not look so."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_images import describe, official, parquet, png, write_parquet

from randlora.data.errors import DataError, DiskError
from randlora.data.images import ImageDataset
from randlora.data.prepared import PreparedStore
from randlora.data.prepared_build import Event
from randlora.data.prepared_writer import GrowingArray

SCRIPT = Path(__file__).with_name("prepare_tiny.py")
NOBODY = 65534
TINY = describe(splits=official(hold_out=4))


def write_tiny(root: Path, *, shade: int = 0, broken: int | None = None, label: int = 1) -> None:
    for split, count in (("train", 20), ("test", 7)):
        images = [b"broken" if k == broken else png((7 * k + shade) % 256, size=(9, 6)) for k in range(count)]
        labels = [(k % 2) * label for k in range(count)]
        write_parquet(root / "tiny" / f"{split}.parquet", images, labels, ["cat", "dog"])


@pytest.fixture
def store(tmp_path: Path) -> PreparedStore:
    write_tiny(tmp_path)
    return PreparedStore(folder=tmp_path / "prepared")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


def left(store: PreparedStore) -> list[str]:
    """Everything under the store's folder but the lock files, which are empty."""
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def start(root: Path, how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(SCRIPT), str(root), how])


def told(events: list[Event]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.pool) for event in events if event.kind in ("kept", "done", "waiting", "outdated")]


def undisturbed(root: Path, dataset: ImageDataset = TINY) -> dict[str, bytes]:
    return contents(PreparedStore(folder=root / "undisturbed").prepare(dataset, 8, root=root).folder)


@pytest.mark.parametrize("changed", [False, True], ids=["same source", "changed source"])
def test_a_killed_writer_leaves_nothing_whole_and_the_next_one_goes_on(
    changed: bool, store: PreparedStore, tmp_path: Path
) -> None:
    assert start(tmp_path, "kill").wait(timeout=120) == -signal.SIGKILL
    assert store.find(TINY, 8) is None
    assert "test.images.npy" in left(store)
    assert "manifest.json" not in left(store)
    if changed:
        write_tiny(tmp_path, shade=50)
    events: list[Event] = []
    found = store.prepare(TINY, 8, root=tmp_path, on_progress=events.append)
    before = "done" if changed else "kept"
    assert told(events) == [(before, "train+validation"), ("done", "test")]
    assert contents(found.folder) == undisturbed(tmp_path)
    assert left(store) == sorted([*contents(found.folder), "manifest.json"])
    assert found.problems() == {}


def test_of_two_at_once_one_prepares_and_the_other_waits(store: PreparedStore, tmp_path: Path) -> None:
    first = start(tmp_path, "wait")
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    events: list[Event] = []

    def on_progress(event: Event) -> None:
        events.append(event)
        assert store.find(TINY, 8) is None
        (tmp_path / "go").touch()

    found = store.prepare(TINY, 8, root=tmp_path, on_progress=on_progress)
    assert first.wait(timeout=120) == 0
    assert told(events) == [("waiting", None)]
    assert contents(found.folder) == undisturbed(tmp_path)


def test_an_interruption_keeps_complete_pools_alone(store: PreparedStore, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if (event.kind, event.pool, event.done) == ("decoding", "validation", 2):
            raise KeyboardInterrupt

    write_parquet(tmp_path / "tiny" / "val.parquet", [png(k) for k in range(5)], [0] * 5, ["cat", "dog"])
    splits = {"train": ["train"], "validation": ["val"], "test": ["test"]}
    dataset = describe(parquet(splits=splits), splits=official(validation=["validation"]))
    with pytest.raises(KeyboardInterrupt):
        store.prepare(dataset, 8, root=tmp_path, on_progress=interrupt)
    assert [name for name in left(store) if name.endswith(".images.npy")] == ["train.images.npy"]
    events: list[Event] = []
    found = store.prepare(dataset, 8, root=tmp_path, on_progress=events.append)
    assert told(events) == [("kept", "train"), ("done", "validation"), ("done", "test")]
    assert [len(found.part(part)) for part in found.parts] == [20, 5, 7]


def test_a_leftover_pool_that_was_cut_is_made_again(store: PreparedStore, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if event.pool == "test":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.prepare(TINY, 8, root=tmp_path, on_progress=interrupt)
    (leftover,) = store.folder.rglob("train+validation.images.npy")
    with leftover.open("r+b") as file:
        file.truncate(1000)
    events: list[Event] = []
    found = store.prepare(TINY, 8, root=tmp_path, on_progress=events.append)
    assert told(events) == [("done", "train+validation"), ("done", "test")]
    assert contents(found.folder) == undisturbed(tmp_path)


@pytest.mark.parametrize("fails_at", [0, 1, 12, 50])
def test_a_full_disk_is_said_and_leaves_nothing(
    fails_at: int, store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, written = GrowingArray.append, 0

    def refuse(self: GrowingArray, content: Any, *, rows: int) -> None:
        nonlocal written
        if written == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += 1
        append(self, content, rows=rows)

    with monkeypatch.context() as patch:
        patch.setattr(GrowingArray, "append", refuse)
        message = r"prepared: No space left on device; free some space or choose another folder with machine\.prepared_"
        with pytest.raises(DiskError, match=message.replace("prepared:", "prepared/tiny:")):
            store.prepare(TINY, 8, root=tmp_path)
    assert left(store) == []
    assert store.find(TINY, 8) is None
    assert contents(store.prepare(TINY, 8, root=tmp_path).folder) == undisturbed(tmp_path)


def test_a_real_limit_of_the_system_on_the_size_of_files(store: PreparedStore, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"File too large; free some space or choose another folder"):
            store.prepare(TINY, 128, root=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left(store) == []


def test_a_folder_that_cannot_be_made(store: PreparedStore, tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("a file")
    with pytest.raises(DiskError, match=r"cannot write prepared images in .*; make it writable or choose another"):
        store.prepare(TINY, 8, root=tmp_path)


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Give up root's right to write everywhere."""
    user = os.geteuid()
    os.seteuid(NOBODY if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_read_only_folder_can_be_read_but_not_added_to() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write_tiny(root)
        store = PreparedStore(folder=root / "prepared")
        store.prepare(TINY, 8, root=root)
        store.path(TINY, 8).parent.chmod(0o555)
        with as_plain_user():
            assert len(store.prepare(TINY, 8, root=root).part("train")) == 20
            with pytest.raises(DiskError, match=r"Permission denied; make it writable or choose another folder"):
                store.prepare(TINY, 9, root=root)
        store.path(TINY, 8).parent.chmod(0o755)
        assert not [name for name in left(store) if name.startswith("9-")]


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a broken image": ({"broken": 5}, {}, r"tiny, train part: image 5 \(5\.png\) is unreadable: .*on_unreadable: skip"),
    "too few images": ({}, {"sizes": {"train": 16, "validation": 4, "test": 8}}, r"holds 7 images, sizes states 8"),
    "a class without images": ({"label": 0}, {}, r"train part: no training image of 'dog'"),
    "too few classes": ({}, {"classes": ["cat", "dog", "cow"]}, r"2 .*3"),
    "a column that is not there": (
        {},
        {"sources": {"here": parquet(label_column="fine_label")}},
        r"no column 'fine_label'; set label_column to one of \['image', 'label'\]",
    ),
    "a column of images as labels": ({}, {"sources": {"here": parquet(label_column="image")}}, r"not labels"),
    "a column of labels as images": ({}, {"sources": {"here": parquet(image_column="label")}}, r"not images"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_data_that_does_not_fit_is_said_and_leaves_nothing(wrong: str, store: PreparedStore, tmp_path: Path) -> None:
    written, described, message = WRONG[wrong]
    write_tiny(tmp_path, **written)
    dataset = describe(**{"splits": official(hold_out=4), **described})
    with pytest.raises(DataError, match=message):
        store.prepare(dataset, 8, root=tmp_path)
    assert left(store) == []
    assert store.find(dataset, 8) is None


def test_a_download_cut_short_is_said_and_leaves_nothing(store: PreparedStore, tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "test.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot read split 'test' of ParquetSource"):
        store.prepare(TINY, 8, root=tmp_path)
    assert left(store) == []
