"""Every image is prepared once, whatever parts it belongs to, and what is prepared is held to the sizes asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_images import describe, official, png, write_parquet

from randlora.data.errors import DataError
from randlora.data.prepared import PreparedStore
from randlora.data.prepared_build import Event
from randlora.data.sources import ImageFolderSource
from randlora.data.splits import PARTS, RandomSplits


def write_tiny(root: Path, *, train: int = 20, test: int = 7) -> None:
    for split, count in (("train", train), ("test", test)):
        images = [png((7 * k) % 256, size=(9, 6)) for k in range(count)]
        write_parquet(root / "tiny" / f"{split}.parquet", images, [k % 2 for k in range(count)], ["cat", "dog"])


@pytest.fixture
def store(tmp_path: Path) -> PreparedStore:
    return PreparedStore(folder=tmp_path / "prepared")


RULES = {
    "held out": official(hold_out=4),
    "of a pool": RandomSplits(
        pool=["train"], per_class=False, validation=3, test=0.3, seed=0, digest=None, train_on="full"
    ),
    "of each class": RandomSplits(
        pool=["train", "test"], per_class=True, validation=2, test=3, seed=0, digest=None, train_on="full"
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("from_files", [False, True], ids=["digest of images", "digest of files"])
def test_one_copy_serves_both_training_parts(rule: str, from_files: bool, store: PreparedStore, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    images = [png(12 * k) for k in range(20)]
    for split in ("train", "test"):
        for k, image in enumerate(images):
            folder = tmp_path / "birds" / split / ("cat", "dog")[k % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{k}.png").write_bytes(b"broken" if k in (3, 6) else image)
    birds = ImageFolderSource(path="birds", splits={"train": ["train"], "test": ["test"]}, label_names=None)
    full = describe(None if from_files else birds, splits=RULES[rule], on_unreadable="skip")
    apart = full.without_validation()
    folder = store.prepare(full, 8, root=tmp_path).folder
    events: list[Event] = []
    assert store.prepare(apart, 8, root=tmp_path, on_progress=events.append).folder == folder
    assert events == []
    stored = sum(len(np.load(file)) for file in folder.glob("*.images.npy"))
    assert stored == sum(pool.images for pool in store.prepare(full, 8, root=tmp_path).manifest.pools.values())
    held = 0
    for dataset in (full, apart):
        found = store.find(dataset, 8)
        assert found is not None
        for part in found.parts:
            direct, prepared = dataset.load(part=part, size=8, root=tmp_path), found.part(part)
            assert torch.equal(prepared.images, direct.images)
            assert torch.equal(torch.cat(list(prepared.blocks(3))), direct.images)
            assert torch.equal(prepared.labels, direct.labels)
            assert (prepared.digest, prepared.skipped) == (direct.digest, direct.skipped)
            held += len(direct.skipped)
            subset = prepared.subset(torch.tensor([1, 0]))
            assert torch.equal(subset.images, direct.images[[1, 0]])
            assert torch.equal(prepared.stored[prepared.places(torch.tensor([1]))], direct.images[1:2])
    assert sum(store.prepare(apart, 8, root=tmp_path).part(part).n_bytes // (3 * 8**2 + 8) for part in PARTS) == stored
    assert (held > 0) != from_files


def test_other_sizes_than_those_prepared_are_refused(store: PreparedStore, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    unchecked = describe(splits=official(hold_out=4))
    folder = store.prepare(unchecked, 8, root=tmp_path).folder
    stated = replace(unchecked, sizes={"train": 26, "validation": 4, "test": 7})
    message = (
        r"tiny, train part: 20 images were prepared, sizes states 30; correct sizes \(null: not checked\), or take a "
        rf"complete source: delete the folder {folder} and prepare the dataset again$"
    )
    for read in (
        lambda: store.find(stated, 8),
        lambda: store.prepare(stated, 8, root=tmp_path),
        lambda: stated.load(part="test", size=8, root=tmp_path, store=store),
    ):
        with pytest.raises(DataError, match=message):
            read()
    with pytest.raises(DataError, match="train part: 16 images were prepared, sizes states 26"):
        store.find(stated.without_validation(), 8)
    write_tiny(tmp_path, train=30)
    assert len(store.prepare(stated, 8, root=tmp_path).part("train")) == 30


def test_a_training_part_without_a_class_is_refused_when_it_is_asked_for(store: PreparedStore, tmp_path: Path) -> None:
    draw = official(hold_out=1)
    positions = draw.positions("validation", count=4)
    assert positions is not None
    (held_out,) = positions.tolist()
    for split in ("train", "test"):
        labels = [int(k == held_out) for k in range(4)]
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(k) for k in range(4)], labels, ["cat", "dog"])
    dataset = describe(splits=draw)
    assert len(store.prepare(dataset, 8, root=tmp_path).part("train")) == 4
    with pytest.raises(DataError, match="train part: no training image of 'dog'"):
        store.prepare(dataset.without_validation(), 8, root=tmp_path)
