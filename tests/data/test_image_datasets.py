from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import ROOT, describe, png, write_parquet

from randlora.data.cache import DecodedCache
from randlora.data.decode import decode_image
from randlora.data.errors import DataError
from randlora.data.images import ImageDataset


@pytest.mark.parametrize(("name", "split", "counts"), [("mnist", "test", [200] * 10), ("pets3", "train", [100] * 3)])
def test_embedded_dataset_loads(
    embedded: Callable[[str], ImageDataset], name: str, split: Any, counts: list[int]
) -> None:
    decoded = embedded(name).load(split=split, size=32, root=ROOT)
    assert decoded.images.shape == (sum(counts), 3, 32, 32)
    assert decoded.images.dtype == torch.uint8
    assert decoded.labels.bincount().tolist() == counts
    assert decoded.skipped == ()
    assert len(decoded) == sum(counts)
    file = ROOT / "assets" / "data" / name / f"{split}.parquet"
    assert decoded.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    # Real images: neither constant nor all alike.
    assert decoded.images.float().std(dim=(1, 2, 3)).min() > 1
    assert decoded.images.unique(dim=0).shape[0] > 0.95 * len(decoded)


@pytest.mark.parametrize("size", [(40, 40), (90, 41), (41, 90), (33, 32), (20, 50)])
def test_decoding_is_short_side_bicubic_then_centre_crop(size: tuple[int, int]) -> None:
    import io

    from PIL import Image

    noise = torch.randint(256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    short = min(size)
    resized = image.resize((int(32 * size[0] / short), int(32 * size[1] / short)), Image.Resampling.BICUBIC)
    pixels = torch.tensor(list(resized.convert("RGB").tobytes()), dtype=torch.uint8)
    pixels = pixels.view(resized.height, resized.width, 3)
    top, left = round((resized.height - 32) / 2), round((resized.width - 32) / 2)
    expected = pixels[top : top + 32, left : left + 32].permute(2, 0, 1)
    assert torch.equal(decode_image(buffer.getvalue(), 32), expected)


def test_grey_image_gets_three_equal_channels(embedded: Callable[[str], ImageDataset]) -> None:
    images = embedded("mnist").load(split="test", size=28, root=ROOT).images
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_unreadable_image_is_an_error_or_skipped_and_reported(tmp_path: Path) -> None:
    whole = png(10)
    images = [whole, whole[: len(whole) // 2], b"not an image", png(200)]
    write_parquet(tmp_path / "tiny" / "train.parquet", images, [0, 0, 1, 1], ["cat", "dog"])
    with pytest.raises(
        DataError, match=r"dataset tiny, split 'train': image 1 \(1\.png\) is unreadable: .*on_unreadable"
    ):
        describe().load(split="train", size=8, root=tmp_path)
    decoded = describe(on_unreadable="skip").load(split="train", size=8, root=tmp_path)
    assert decoded.skipped == (1, 2)
    assert decoded.labels.tolist() == [0, 1]
    assert decoded.images[:, 0, 4, 4].tolist() == [10, 200]


def test_a_class_left_without_readable_images_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), b"?"], [0, 1], ["cat", "dog"])
    with pytest.raises(DataError, match="no training image of 'dog'"):
        describe(on_unreadable="skip").load(split="train", size=8, root=tmp_path)


def test_split_without_readable_images_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [b"?"], [0], ["cat", "dog"])
    write_parquet(tmp_path / "tiny" / "test.parquet", [], [], ["cat", "dog"])
    with pytest.raises(DataError, match=r"no readable images \(1 unreadable ones\)"):
        describe(on_unreadable="skip").load(split="train", size=8, root=tmp_path)
    with pytest.raises(DataError, match=r"split 'test': the split holds no readable images"):
        describe().load(split="test", size=8, root=tmp_path)


@pytest.mark.parametrize("label", [2, -1])
@pytest.mark.parametrize("names", [["cat", "dog"], None])
def test_label_outside_the_classes_is_an_error(tmp_path: Path, label: int, names: list[str] | None) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2), png(3)], [0, 1, label], names)
    with pytest.raises(DataError, match=f"image 2 has the label {label}; 2 classes allow 0 to 1"):
        describe().load(split="train", size=8, root=tmp_path)


def test_class_without_training_image_is_an_error_but_a_test_split_may_lack_one(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(1)], [0], ["cat", "dog"])
    with pytest.raises(DataError, match="dataset tiny, split 'train': no training image of 'dog'"):
        describe().load(split="train", size=8, root=tmp_path)
    assert describe().load(split="test", size=8, root=tmp_path).labels.tolist() == [0]


def test_class_order_is_checked_against_the_source(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2)], [0, 1], ["dog", "cat"])
    with pytest.raises(DataError, match=r"label 0 is 'dog' in the source, 'cat' in source_classes.*\['dog', 'cat'\]"):
        describe(source_classes=["cat", "dog"]).load(split="train", size=8, root=tmp_path)
    with pytest.raises(
        DataError, match=r"classes are the label names of the source in another order: \['dog', 'cat'\]"
    ):
        describe().load(split="train", size=8, root=tmp_path)
    with pytest.raises(DataError, match="the source has 2 classes, the dataset 3"):
        describe(classes=["cat", "dog", "cow"]).load(split="train", size=8, root=tmp_path)
    decoded = describe(source_classes=["dog", "cat"], classes=["hound", "kitten"])
    assert decoded.load(split="train", size=8, root=tmp_path).labels.tolist() == [0, 1]


def test_plain_number_labels_load_but_cannot_be_checked(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2)], [0, 1], None)
    assert describe().load(split="train", size=8, root=tmp_path).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="states no label names to check; set source_classes: null"):
        describe(source_classes=["cat", "dog"]).load(split="train", size=8, root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["cat", " "]}, "dataset tiny: classes entry 1 is ' '"),
        ({"classes": [0, 1]}, "dataset tiny: classes entry 0 is 0; .*quote numbers"),
        ({"classes": ["cat", "cat"]}, "dataset tiny: classes names 'cat' twice"),
        ({"classes": ["cat"]}, "dataset tiny: classes has 1 entries"),
        ({"classes": "cat"}, "dataset tiny: classes is the string 'cat'; give a list"),
        ({"source_classes": ["cat"]}, "dataset tiny: source_classes has 1 entries for 2 classes"),
        ({"prompt": "An image of {}"}, r"dataset tiny: prompt 'An image of \{\}' lacks \{class\}; write"),
        ({"templates": ["a {class}", "a"]}, r"dataset tiny: templates 'a' lacks \{class\}"),
        ({"templates": []}, "dataset tiny: templates is empty"),
        ({"version": 0}, "dataset tiny: version is 0"),
        ({"test_split": "train"}, "dataset tiny: test_split is the training split 'train'"),
        ({"on_unreadable": "ignore"}, "dataset tiny: on_unreadable is 'ignore'; give one of"),
    ],
)
def test_description_that_cannot_be_meant_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(**changes)


def test_load_accepts_known_splits_and_sizes_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split='val'.*\('train', 'test'\)"):
        describe().load(split="val", size=8, root=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size=0"):
        describe().load(split="train", size=0, root=tmp_path)


def test_captions_put_the_words_of_each_class_into_the_templates() -> None:
    dataset = describe(templates=["a {class}.", "one {class}, a {class}"])
    assert dataset.captions == ("An image of cat", "An image of dog")
    assert dataset.ensemble == (("a cat.", "one cat, a cat"), ("a dog.", "one dog, a dog"))


def test_cache_decodes_a_split_once_and_drops_the_least_recently_used(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(1), png(2)], [0, 1], ["cat", "dog"])
    cache = DecodedCache()
    first = cache.get(describe(), split="train", size=8, root=tmp_path)
    (tmp_path / "tiny" / "train.parquet").unlink()
    assert cache.get(describe(), split="train", size=8, root=tmp_path) is first
    test = cache.get(describe(), split="test", size=8, root=tmp_path)
    assert test is not first
    assert len(cache) == 2
    assert cache.n_bytes == first.n_bytes + test.n_bytes
    cache.max_bytes = first.n_bytes
    assert cache.get(describe(), split="test", size=8, root=tmp_path) is test
    assert len(cache) == 1
    with pytest.raises(DataError, match="no file"):
        cache.get(describe(), split="train", size=8, root=tmp_path)


def test_cache_tells_descriptions_apart(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), b"?", png(2)], [0, 0, 1], ["cat", "dog"])
    cache = DecodedCache()
    cache.get(describe(on_unreadable="skip"), split="train", size=8, root=tmp_path)
    with pytest.raises(DataError, match="unreadable"):
        cache.get(describe(), split="train", size=8, root=tmp_path)
