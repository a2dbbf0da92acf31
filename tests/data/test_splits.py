from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import ROOT, describe, official, parquet, png, write_parquet

from randlora.data.errors import DataError
from randlora.data.images import ImageDataset
from randlora.data.splits import PARTS, RandomSplits, SplitRule, split_digest


def random_splits(**changes: Any) -> RandomSplits:
    rule = {"per_class": False, "validation": 0.1, "test": 0.2, "seed": 0, "digest": None, "train_on": "full"}
    return RandomSplits(**{"pool": ["all"], **rule, **changes})


def drawn(rule: SplitRule, *, count: int | None = None, labels: torch.Tensor | None = None) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for part in PARTS:
        positions = rule.positions(part, count=count, labels=labels)
        found[part] = [] if positions is None else positions.tolist()
    return found


def test_parts_are_named_keys_in_their_order() -> None:
    rule = official(train=["train", "extra"], validation=["val"], test=["test"])
    assert [rule.keys(part) for part in PARTS] == [("train", "extra"), ("val",), ("test",)]
    assert rule.has_validation
    assert not rule.draws_validation
    assert {rule.needs(part) for part in PARTS} == {"nothing"}
    assert not official().has_validation


# Number of training images, and the sizes of training and validation parts that the paper's Table 7 prints.
@pytest.mark.parametrize(
    ("count", "train", "validation"),
    [
        (8144, 7330, 814),
        (3760, 3384, 376),
        (26640, 23976, 2664),
        (60000, 55000, 5000),
        (73257, 68257, 5000),
        (5994, 5395, 599),
        (3680, 3312, 368),
        (19850, 17865, 1985),
    ],
)
def test_held_out_images_have_the_sizes_of_the_paper(count: int, train: int, validation: int) -> None:
    rule = official(hold_out=0.1, hold_out_at_most=5000, train_on="without_validation")
    assert rule.needs("test") == "nothing"
    found = drawn(dataclasses.replace(rule, train_on="without_validation"), count=count)
    assert (len(found["train"]), len(found["validation"])) == (train, validation)
    assert sorted(found["train"] + found["validation"]) == list(range(count))


def test_training_on_everything_is_the_default_of_the_released_code() -> None:
    rule = official(hold_out=7, train_on="full")
    assert rule.needs("train") == "nothing"
    assert rule.positions("train") is None
    held_out = rule.positions("validation", count=50)
    assert held_out is not None
    assert len(held_out) == 7
    # The same images are held out whatever is trained on.
    again = rule.without_validation().positions("validation", count=50)
    assert again is not None
    assert torch.equal(held_out, again)
    assert not set(held_out.tolist()) & set(drawn(rule.without_validation(), count=50)["train"])


@pytest.mark.parametrize("amount", [50, 51, 0.01])
def test_holding_out_all_or_nothing_is_an_error(amount: float) -> None:
    with pytest.raises(DataError, match=r"of 50 training images out for validation leaves .* to train on; set splits"):
        official(hold_out=amount).positions("validation", count=50)


@pytest.mark.parametrize(
    ("count", "sizes"), [(8677, (6247, 694, 1736)), (30607, (22037, 2448, 6122))], ids=["caltech101", "caltech256"]
)
def test_random_parts_have_the_sizes_of_the_paper(count: int, sizes: tuple[int, int, int]) -> None:
    found = drawn(random_splits(train_on="without_validation"), count=count)
    assert tuple(map(len, found.values())) == sizes
    assert sorted(itertools.chain(*found.values())) == list(range(count))


@pytest.mark.parametrize("amount", [0.1, 270], ids=["share", "number"])
def test_random_parts_per_class_are_drawn_from_every_class(amount: float) -> None:
    # The classes of EuroSAT; numbers give the paper's sizes, 2,700 of 27,000 images each.
    counts = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    rule = random_splits(per_class=True, validation=amount, test=amount, train_on="without_validation")
    found = drawn(rule, labels=labels)
    assert sorted(itertools.chain(*found.values())) == list(range(27000))
    tested, validated = (labels[torch.tensor(found[part])].bincount().tolist() for part in ("test", "validation"))
    assert tested == [270 if amount == 270 else count // 10 for count in counts]
    assert validated == [270 if amount == 270 else (count - count // 10) // 10 for count in counts]


def test_a_full_random_training_part_is_all_that_is_not_tested_on() -> None:
    full, without = drawn(random_splits(), count=200), drawn(random_splits().without_validation(), count=200)
    assert full["train"] == sorted(without["train"] + without["validation"])
    assert full["test"] == without["test"]
    assert full["validation"] == without["validation"]


def test_the_draw_depends_on_the_seed_of_the_rule_and_on_the_numbers_alone() -> None:
    assert drawn(random_splits(), count=200) == drawn(random_splits(), count=200)
    assert drawn(random_splits(seed=1), count=200) != drawn(random_splits(), count=200)
    # Per class, positions within a class do not depend on the images of others between them.
    rule = random_splits(per_class=True, validation=2)
    together, apart = torch.tensor([0] * 10 + [1] * 10), torch.tensor([1, 0] * 10)
    for part in PARTS:
        places = [rule.positions(part, labels=labels) for labels in (together, apart)]
        within = [
            [(labels[:place] == labels[place]).sum().item() for place in positions if labels[place] == 0]
            for labels, positions in zip((together, apart), places, strict=True)
            if positions is not None
        ]
        assert within[0] == within[1]


def test_a_digest_from_numbers_alone_pins_the_split() -> None:
    rule = random_splits(per_class=True, validation=1, test=2)
    labels = torch.tensor([0] * 8 + [1] * 5 + [0] * 2)
    digest = split_digest(rule, [10, 5])
    assert digest == split_digest(dataclasses.replace(rule, digest="0" * 64, train_on="without_validation"), [10, 5])
    pinned = dataclasses.replace(rule, digest=digest)
    assert drawn(pinned, labels=labels) == drawn(rule, labels=labels)
    with pytest.raises(
        DataError, match=rf"the random split is [0-9a-f]{{64}}, but splits.digest pins {digest}: .*15 images"
    ):
        pinned.positions("test", labels=torch.tensor([0] * 9 + [1] * 6))
    with pytest.raises(DataError, match=r"splits\.digest=null"):
        dataclasses.replace(random_splits(), digest=digest).positions("test", count=15)


def test_the_digest_is_of_the_lists_of_positions() -> None:
    rule = random_splits(validation=3, test=4, train_on="without_validation")
    lists = [list(drawn(rule, count=20).values())]
    expected = hashlib.sha256(json.dumps(lists, separators=(",", ":")).encode()).hexdigest()
    assert split_digest(rule, [20]) == expected
    with pytest.raises(ValueError, match="2 counts for a pool that is not drawn per class; give their sum"):
        split_digest(rule, [10, 10])


def test_the_draw_is_the_same_on_every_machine() -> None:
    # Another value means that splits pinned before no longer hold: raise the version of the datasets that draw them.
    assert split_digest(random_splits(), [100]) == "8bba3932644e3c10cec55460a7f660beac3312659d1dc8fa269eaa3fa080dcfc"
    assert (
        split_digest(random_splits(per_class=True), [30, 20])
        == "46f829a099e7e0ccff78b81ed35c685ea612b074a8bd3457809b270306c526a7"
    )


@pytest.mark.parametrize(("validation", "test"), [(1, 9), (0.01, 0.2), (9, 1), (5, 0.5)])
def test_a_class_too_small_to_be_split_is_an_error(validation: float, test: float) -> None:
    rule = random_splits(per_class=True, validation=validation, test=test)
    with pytest.raises(DataError, match=r"class 1 has 10 images; test: .* and validation: .*: every part needs one"):
        rule.positions("train", labels=torch.tensor([0] * 1000 + [1] * 10))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (official, {"train": "train"}, "OfficialSplits.train = 'train'; valid: a list of keys"),
        (official, {"train": []}, r"OfficialSplits.train = \[\]; valid: a list of keys"),
        (official, {"test": ["train"]}, "OfficialSplits: 'train' is named twice; valid: every key in one part"),
        (official, {"validation": ["test"]}, "OfficialSplits: 'test' is named twice"),
        (official, {"hold_out": 1.5}, "OfficialSplits.hold_out = 1.5; valid: a share above 0 and below 1, or a number"),
        (official, {"hold_out": 0}, "OfficialSplits.hold_out = 0; valid"),
        (official, {"hold_out_at_most": 0.5}, "OfficialSplits.hold_out_at_most = 0.5; valid"),
        (official, {"validation": ["val"], "hold_out": 0.1}, r"hold_out = 0.1 although validation is \['val'\]"),
        (official, {"train_on": "all"}, "train_on = 'all'; valid: 'full', 'without_validation'"),
        (random_splits, {"pool": []}, r"RandomSplits.pool = \[\]; valid: a list of keys"),
        (random_splits, {"per_class": 1}, "RandomSplits.per_class = 1; valid: true or false"),
        (random_splits, {"test": True}, "RandomSplits.test = True; valid: a share"),
        (random_splits, {"digest": "abc"}, "RandomSplits.digest = 'abc'; valid: 64 hexadecimal digits, or null"),
        (random_splits, {"seed": -1}, "RandomSplits.seed = -1"),
    ],
)
def test_rule_that_cannot_be_meant_is_an_error(make: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def pooled(root: Path, **changes: Any) -> ImageDataset:
    """40 images of two classes, each of a colour of its own, in one pool."""
    labels = [0, 1, 1, 0] * 10
    write_parquet(root / "tiny" / "all.parquet", [png(5 * k) for k in range(40)], labels, ["cat", "dog"])
    return describe(parquet(splits={"all": ["all"]}), splits=random_splits(**changes))


@pytest.mark.parametrize("per_class", [False, True])
def test_parts_of_a_pool_share_no_image(tmp_path: Path, per_class: bool) -> None:
    dataset = pooled(tmp_path, per_class=per_class, train_on="without_validation")
    parts = {part: dataset.load(part=part, size=8, root=tmp_path) for part in PARTS}
    colours = {part: split.images[:, 0, 4, 4].tolist() for part, split in parts.items()}
    assert sorted(itertools.chain(*colours.values())) == [5 * k for k in range(40)]
    for part, split in parts.items():
        assert [[0, 1, 1, 0][colour // 5 % 4] for colour in colours[part]] == split.labels.tolist()
    assert len({split.digest for split in parts.values()}) == 3


def test_a_pinned_pool_of_other_images_is_an_error(tmp_path: Path) -> None:
    digest = split_digest(random_splits(per_class=True), [20, 20])
    assert len(pooled(tmp_path, per_class=True, digest=digest).load(part="test", size=8, root=tmp_path)) == 8
    with pytest.raises(DataError, match="dataset tiny, test part: the random split is"):
        pooled(tmp_path, per_class=True, digest="0" * 64).load(part="test", size=8, root=tmp_path)


def test_held_out_images_are_not_trained_on(embedded: Callable[[str], ImageDataset]) -> None:
    dataset = embedded("pets3")
    full = dataset.load(part="train", size=16, root=ROOT)
    held_out = dataset.load(part="validation", size=16, root=ROOT)
    kept = dataset.without_validation().load(part="train", size=16, root=ROOT)
    assert [len(split) for split in (full, held_out, kept)] == [300, 30, 270]
    assert torch.equal(dataset.without_validation().load(part="validation", size=16, root=ROOT).images, held_out.images)
    keys = [sorted(image.numpy().tobytes() for image in split.images) for split in (full, held_out, kept)]
    assert keys[0] == sorted(keys[1] + keys[2])
    assert not set(keys[1]) & set(keys[2])


def test_validation_of_a_dataset_without_any_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"dataset tiny has no validation part; set splits.hold_out .*validation_per_class"
    ):
        describe().load(part="validation", size=8, root=tmp_path)


def test_an_official_validation_split_is_left_as_it_is(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(number), png(9 + number)], [0, 1], ["cat", "dog"])
    place = parquet(splits={"train": ["train"], "validation": ["val"], "test": ["test"]})
    dataset = describe(place, splits=official(validation=["validation"]))
    assert dataset.without_validation() is dataset
    for number, part in enumerate(PARTS):
        images = dataset.load(part=part, size=8, root=tmp_path).images
        assert images[:, 0, 4, 4].tolist() == [number, 9 + number]
