"""Prepared datasets equal decoded ones, are found by what decides their pixels, and notice what was done to them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_images import IMAGE_CONFIGS, ROOT, describe, official, parquet, png, write_parquet

from randlora.data.errors import DataError
from randlora.data.images import ImageDataset
from randlora.data.prepared import Prepared, PreparedStore
from randlora.data.prepared_build import Event
from randlora.data.prepared_check import description_problems
from randlora.data.prepared_manifest import describe as deciding
from randlora.data.prepared_manifest import plain_fields
from randlora.data.prepared_parts import parts_of
from randlora.data.sources import ImageFolderSource
from randlora.data.splits import RandomSplits, TrainOn, split_digest


def write_tiny(root: Path, *, train: int = 20, test: int = 7, shade: int = 0) -> None:
    for split, count in (("train", train), ("test", test)):
        images = [png((7 * k + shade) % 256, size=(9, 6)) for k in range(count)]
        write_parquet(root / "tiny" / f"{split}.parquet", images, [k % 2 for k in range(count)], ["cat", "dog"])


@pytest.fixture
def tiny(tmp_path: Path) -> ImageDataset:
    write_tiny(tmp_path)
    return describe(splits=official(hold_out=4), sizes={"train": 16, "validation": 4, "test": 7})


@pytest.fixture
def store(tmp_path: Path) -> PreparedStore:
    return PreparedStore(folder=tmp_path / "prepared")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


def kinds(events: list[Event]) -> list[tuple[str, str | None]]:
    telling = [event for event in events if event.kind not in ("reading", "decoding")]
    return list(dict.fromkeys((event.kind, event.pool) for event in telling))


def test_parts_are_those_that_decoding_gives(tiny: ImageDataset, store: PreparedStore, tmp_path: Path) -> None:
    store.prepare(tiny, 8, root=tmp_path)
    found = PreparedStore(folder=store.folder).find(tiny, 8)
    assert found is not None
    assert tuple(found.parts) == ("train", "validation", "test")
    for part in found.parts:
        direct, prepared = tiny.load(part=part, size=8, root=tmp_path), found.part(part)
        assert torch.equal(prepared.images, direct.images)
        assert torch.equal(prepared.labels, direct.labels)
        assert (prepared.digest, prepared.skipped) == (direct.digest, ())
        assert found.parts[part].per_class == tuple(direct.labels.bincount(minlength=2).tolist())
    assert found.problems() == {}
    assert tiny.load(part="test", size=8, root=Path("nowhere"), store=store).digest == found.part("test").digest
    assert found.manifest.bytes == sum(map(len, contents(found.folder).values()))


def test_real_images_are_mapped_and_not_read(embedded: Callable[[str], ImageDataset], store: PreparedStore) -> None:
    pets = embedded("pets3")
    found = store.prepare(pets, 32, root=ROOT, workers=2)
    test = found.part("test")
    assert test.digest == pets.load(part="test", size=32, root=ROOT).digest
    assert test.images.float().std(dim=(1, 2, 3)).min() > 1
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "test.images.npy" in line]
    assert mapped
    assert {line[1] for line in mapped} == {"r--s"}


@pytest.mark.parametrize("workers", [2, 5])
def test_threads_change_no_bit(workers: int, tiny: ImageDataset, tmp_path: Path) -> None:
    one, several = (PreparedStore(folder=tmp_path / name) for name in ("one", "several"))
    expected = contents(one.prepare(tiny, 8, root=tmp_path, workers=1).folder)
    assert sorted(expected) == [
        "test.images.npy",
        "test.labels.npy",
        "train+validation.images.npy",
        "train+validation.labels.npy",
        "train_without_validation.rows.npy",
        "validation.rows.npy",
    ]
    assert contents(several.prepare(tiny, 8, root=tmp_path, workers=workers).folder) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"classes": ["kitten", "dog"]},
        {"splits": official(hold_out=5)},
        {"sources": {"here": parquet("elsewhere")}},
        {"on_unreadable": "skip"},
        {"name": "other"},
    ],
    ids=str,
)
def test_what_decides_pixels_or_members_has_a_folder_of_its_own(
    changes: dict[str, Any], tiny: ImageDataset, store: PreparedStore
) -> None:
    other = describe(**{"splits": official(hold_out=4), **changes})
    assert store.path(other, 8) != store.path(tiny, 8)
    assert store.path(tiny, 8) != store.path(tiny, 9)


def test_words_sizes_unused_sources_and_the_training_part_do_not_decide(
    tiny: ImageDataset, store: PreparedStore
) -> None:
    places = {"here": parquet(), "there": parquet("elsewhere")}
    other = describe(splits=official(hold_out=4), sources=places, prompt="a {class}", licence="MIT", sizes=None)
    assert store.path(other, 8) == store.path(tiny, 8)
    assert store.path(tiny.without_validation(), 8) == store.path(tiny, 8)


@pytest.mark.parametrize("name", [file.stem for file in IMAGE_CONFIGS])
def test_a_file_and_its_dataset_are_described_alike(name: str, embedded: Callable[[str], ImageDataset]) -> None:
    stated = yaml.safe_load((ROOT / "conf" / "dataset" / f"{name}.yaml").read_text(encoding="utf-8"))
    if "???" in (stated["classes"], *(source.get("path") for source in stated["sources"].values())):
        pytest.skip("the user gives its path and classes")
    assert deciding(plain_fields(embedded(name)), size=32) == deciding(stated, size=32)


def test_unreadable_images_are_left_out_and_reported(tmp_path: Path, store: PreparedStore) -> None:
    images = [png(10), b"no image", png(30), b"", png(50)]
    for split in ("train", "test"):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", images, [0, 1, 1, 0, 1], ["cat", "dog"])
    found = store.prepare(describe(on_unreadable="skip", sizes={"train": 5}), 8, root=tmp_path)
    assert found.part("train").skipped == (1, 3)
    assert found.part("train").labels.tolist() == [0, 1, 1]
    assert found.part("train").images.shape == (3, 3, 8, 8)
    assert found.parts["train"].per_class == (1, 2)


def test_a_dataset_without_validation_part(store: PreparedStore, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    dataset = describe()
    assert parts_of(dataset) == ("train", "test")
    with pytest.raises(DataError, match="tiny has no validation part; it was prepared with train, test"):
        store.prepare(dataset, 8, root=tmp_path).part("validation")


def test_preparing_again_reads_nothing(tiny: ImageDataset, store: PreparedStore, tmp_path: Path) -> None:
    first = store.prepare(tiny, 8, root=tmp_path)
    events: list[Event] = []
    assert store.prepare(tiny, 8, root=tmp_path, on_progress=events.append) == first
    assert events == []


def test_a_changed_source_is_prepared_again_while_readers_read_on(
    tiny: ImageDataset, store: PreparedStore, tmp_path: Path
) -> None:
    before = store.prepare(tiny, 8, root=tmp_path).part("train")
    pixels = before.images.clone()
    write_tiny(tmp_path, shade=100)
    events: list[Event] = []
    after = store.prepare(tiny, 8, root=tmp_path, on_progress=events.append).part("train")
    assert kinds(events)[0] == ("outdated", None)
    assert torch.equal(before.images, pixels)
    assert torch.equal(after.images, tiny.load(part="train", size=8, root=tmp_path).images)
    assert not torch.equal(after.images, pixels)
    assert [path.name for path in store.path(tiny, 8).parent.glob("[!.]*")] == [store.path(tiny, 8).name]


def test_times_alone_and_a_source_that_is_gone_change_nothing(
    tiny: ImageDataset, store: PreparedStore, tmp_path: Path
) -> None:
    first, events = store.prepare(tiny, 8, root=tmp_path), list[Event]()
    os.utime(tmp_path / "tiny" / "train.parquet", (1, 1))
    assert store.prepare(tiny, 8, root=tmp_path, on_progress=events.append) == first
    shutil.rmtree(tmp_path / "tiny")
    assert store.prepare(tiny, 8, root=tmp_path, on_progress=events.append) == first
    assert events == []


def test_a_folder_with_another_image_is_prepared_again(store: PreparedStore, tmp_path: Path) -> None:
    place = ImageFolderSource(path="birds", splits={"train": ["train"], "test": ["test"]}, label_names=None)
    dataset = describe(place)
    for index, entry in enumerate(("train/cat", "train/dog", "test/cat")):
        (tmp_path / "birds" / entry).mkdir(parents=True)
        (tmp_path / "birds" / entry / "1.png").write_bytes(png(index))
    assert len(store.prepare(dataset, 8, root=tmp_path).part("train")) == 2
    (tmp_path / "birds" / "train" / "dog" / "2.png").write_bytes(png(9))
    assert len(store.prepare(dataset, 8, root=tmp_path).part("train")) == 3


def damage_cut(folder: Path) -> None:
    with (folder / "train+validation.images.npy").open("r+b") as file:
        file.truncate(500)


def damage_shape(folder: Path) -> None:
    path = folder / "train+validation.images.npy"
    images = np.load(path)
    np.save(path, images.reshape(len(images), 3, 4, 16))


def damage_missing(folder: Path) -> None:
    (folder / "train+validation.labels.npy").unlink()


def damage_garbage(folder: Path) -> None:
    path = folder / "train+validation.images.npy"
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            damage_cut,
            r"train\+validation\.images\.npy has 500 bytes, the manifest states [\d,]+; delete the folder .* again$",
        ),
        (
            damage_shape,
            r"train\+validation\.images\.npy holds \|u1 of shape \(20, 3, 4, 16\), the manifest states .*; delete",
        ),
        (damage_missing, r"cannot read .*train\+validation\.labels\.npy: .*; delete the folder"),
        (damage_garbage, r"cannot read .*train\+validation\.images\.npy: .*; delete the folder"),
    ],
)
def test_a_damaged_array_is_an_error_that_names_file_and_remedy(
    damage: Callable[[Path], None], message: str, tiny: ImageDataset, store: PreparedStore, tmp_path: Path
) -> None:
    found = store.prepare(tiny, 8, root=tmp_path)
    damage(found.folder)
    again = store.find(tiny, 8)
    assert again is not None
    with pytest.raises(DataError, match=message):
        again.part("train")
    assert len(again.problems()) == 1
    assert len(again.part("test")) == 7


@pytest.mark.parametrize("name", ["test.images.npy", "train+validation.labels.npy", "validation.rows.npy"])
def test_an_altered_byte_is_found_by_its_digest(
    name: str, tiny: ImageDataset, store: PreparedStore, tmp_path: Path
) -> None:
    found = store.prepare(tiny, 8, root=tmp_path)
    assert found.problems() == {}
    with (found.folder / name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    problems = found.problems()
    assert list(problems) == [name]
    assert f"{name} was altered" in problems[name]
    assert name in found.files_of("validation" if "validation" in name else "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read .*manifest.json: .*; delete the folder"),
        ("{}", "manifest.json is not a manifest of prepared data .*; delete the folder"),
        (json.dumps({"schema": 99}), "manifest.json has schema 99, this version reads 2; delete the folder"),
    ],
)
def test_a_manifest_that_is_none(
    text: str, message: str, tiny: ImageDataset, store: PreparedStore, tmp_path: Path
) -> None:
    found: Prepared = store.prepare(tiny, 8, root=tmp_path)
    (found.folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        store.find(tiny, 8)


def test_what_an_older_version_prepared_is_prepared_again(
    tiny: ImageDataset, store: PreparedStore, tmp_path: Path
) -> None:
    folder = store.prepare(tiny, 8, root=tmp_path).folder
    (folder / "manifest.json").write_text(json.dumps({"schema": 1}))
    assert store.find(tiny, 8) is None
    assert len(store.prepare(tiny, 8, root=tmp_path).part("train")) == 20
    assert store.find(tiny, 8) is not None


@pytest.mark.parametrize("wrong", [{"size": 0}, {"workers": 0}])
def test_sizes_and_workers_start_at_one(
    wrong: dict[str, int], tiny: ImageDataset, store: PreparedStore, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="both are at least 1"):
        store.prepare(tiny, wrong.get("size", 8), root=tmp_path, workers=wrong.get("workers"))


@pytest.mark.parametrize("train_on", ["full", "without_validation"])
@pytest.mark.parametrize("per_class", [False, True])
def test_a_random_split_is_drawn_again_from_what_was_prepared(
    train_on: TrainOn, per_class: bool, store: PreparedStore, tmp_path: Path
) -> None:
    write_tiny(tmp_path)
    drawn: dict[str, Any] = {"pool": ["train"], "per_class": per_class, "validation": 2, "test": 0.3, "seed": 0}
    rule = RandomSplits(**drawn, digest=None, train_on=train_on)
    rule = replace(rule, digest=split_digest(rule, [10, 10] if per_class else [20]))
    dataset = describe(splits=rule)
    found = store.prepare(dataset, 8, root=tmp_path)
    assert description_problems(found, dataset) == ()
    other = replace(dataset, splits=replace(rule, seed=1))
    (problem,) = description_problems(found, other)
    assert f"splits.digest pins {rule.digest}" in problem
    (problem,) = description_problems(found, replace(dataset, sizes={"test": 3}))
    assert problem == f"dataset tiny, test part: {len(found.part('test'))} images were prepared, sizes states 3"
