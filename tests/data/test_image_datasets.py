from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import ROOT, describe, folder_of, official, parquet, png, write_parquet

from randlora.data.cache import DecodedCache
from randlora.data.decode import decode_image, decode_into
from randlora.data.errors import DataError
from randlora.data.images import ImageDataset
from randlora.data.splits import Part


@pytest.mark.parametrize(
    ("name", "part", "counts"), [("mini_mnist", "test", [200] * 10), ("pets3", "train", [100] * 3)]
)
def test_embedded_dataset_loads(
    embedded: Callable[[str], ImageDataset], name: str, part: Part, counts: list[int]
) -> None:
    decoded = embedded(name).load(part=part, size=32, root=ROOT)
    assert decoded.images.shape == (sum(counts), 3, 32, 32)
    assert decoded.images.dtype == torch.uint8
    assert decoded.labels.bincount().tolist() == counts
    assert decoded.skipped == ()
    assert len(decoded) == sum(counts)
    file = folder_of(name) / f"{part}.parquet"
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
    assert torch.equal(decode_image({"bytes": buffer.getvalue()}, 32), expected)


def test_grey_image_gets_three_equal_channels(embedded: Callable[[str], ImageDataset]) -> None:
    images = embedded("mini_mnist").load(part="test", size=28, root=ROOT).images
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_unreadable_image_is_an_error_or_skipped_and_reported(tmp_path: Path) -> None:
    whole = png(10)
    images = [whole, whole[: len(whole) // 2], b"not an image", png(200)]
    write_parquet(tmp_path / "tiny" / "train.parquet", images, [0, 0, 1, 1], ["cat", "dog"])
    with pytest.raises(DataError, match=r"dataset tiny, train part: image 1 \(1\.png\) is unreadable: .*on_unreadable"):
        describe().load(part="train", size=8, root=tmp_path)
    decoded = describe(on_unreadable="skip").load(part="train", size=8, root=tmp_path)
    assert decoded.skipped == (1, 2)
    assert decoded.labels.tolist() == [0, 1]
    assert decoded.images[:, 0, 4, 4].tolist() == [10, 200]


def test_a_class_left_without_readable_images_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), b"?"], [0, 1], ["cat", "dog"])
    with pytest.raises(DataError, match="no training image of 'dog'"):
        describe(on_unreadable="skip").load(part="train", size=8, root=tmp_path)


def test_split_without_readable_images_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [b"?"], [0], ["cat", "dog"])
    write_parquet(tmp_path / "tiny" / "test.parquet", [], [], ["cat", "dog"])
    with pytest.raises(DataError, match=r"no readable images \(1 unreadable ones\)"):
        describe(on_unreadable="skip").load(part="train", size=8, root=tmp_path)
    with pytest.raises(DataError, match=r"test part: the split holds no readable images"):
        describe().load(part="test", size=8, root=tmp_path)


@pytest.mark.parametrize("label", [2, -1])
@pytest.mark.parametrize("names", [["cat", "dog"], None])
def test_label_outside_the_classes_is_an_error(tmp_path: Path, label: int, names: list[str] | None) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2), png(3)], [0, 1, label], names)
    with pytest.raises(DataError, match=f"image 2 has the label {label}; 2 classes allow 0 to 1"):
        describe().load(part="train", size=8, root=tmp_path)


def test_class_without_training_image_is_an_error_but_a_test_split_may_lack_one(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(1)], [0], ["cat", "dog"])
    with pytest.raises(DataError, match="dataset tiny, train part: no training image of 'dog'"):
        describe().load(part="train", size=8, root=tmp_path)
    assert describe().load(part="test", size=8, root=tmp_path).labels.tolist() == [0]


def test_names_of_the_source_in_another_order_are_mapped_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2)], [0, 1], ["dog", "cat"])
    for place, classes in (
        (parquet(), ["cat", "dog"]),
        (parquet(label_names=["cat", "dog"]), ["kitten", "hound"]),
    ):
        decoded = describe(place, classes=classes).load(part="train", size=8, root=tmp_path)
        assert decoded.labels.tolist() == [1, 0]
        assert decoded.images[:, 0, 4, 4].tolist() == [1, 2]
    same = describe(parquet(label_names=["dog", "cat"]), classes=["hound", "kitten"])
    assert same.load(part="train", size=8, root=tmp_path).labels.tolist() == [0, 1]


def test_other_names_than_those_of_the_source_are_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2)], [0, 1], ["dog", "cat"])
    with pytest.raises(DataError, match=r"states the label names 'dog', and label_names lists 'hound' in their place"):
        describe(parquet(label_names=["hound", "cat"])).load(part="train", size=8, root=tmp_path)
    with pytest.raises(
        DataError, match=r"the source has 2 classes \('dog', 'cat'\), the dataset 3 \('cat', 'dog', 'cow'\)"
    ):
        describe(classes=["cat", "dog", "cow"]).load(part="train", size=8, root=tmp_path)
    # Without label_names, words that are not the source's names are taken in the order of the source.
    unchecked = describe(classes=["hound", "kitten"])
    assert unchecked.load(part="train", size=8, root=tmp_path).labels.tolist() == [0, 1]


def test_plain_number_labels_load_but_cannot_be_checked(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2)], [0, 1], None)
    assert describe().load(part="train", size=8, root=tmp_path).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="states no label names to check; set label_names: null"):
        describe(parquet(label_names=["cat", "dog"])).load(part="train", size=8, root=tmp_path)


def test_sizes_are_checked_where_they_are_stated(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(1), b"?", png(2)], [0, 0, 1], ["cat", "dog"])
    stated = describe(sizes={"train": 3, "validation": None, "test": 4}, on_unreadable="skip")
    assert len(stated.load(part="train", size=8, root=tmp_path)) == 2
    with pytest.raises(DataError, match=r"test part: .* holds 3 images, sizes states 4; .*fetch it again"):
        stated.load(part="test", size=8, root=tmp_path)
    with pytest.raises(DataError, match="holds 3 images, sizes states 4"):
        stated.open("test", root=tmp_path)  # where the source knows its number, nothing is decoded before


def test_sizes_of_a_full_training_part_include_what_is_held_out() -> None:
    sizes = {"train": 90, "validation": 10, "test": 5}
    held_out = describe(splits=official(hold_out=10), sizes=sizes)
    assert held_out.size_of("train") == 100
    assert held_out.without_validation().size_of("train") == 90
    assert held_out.size_of("validation") == 10
    given = parquet(splits={"train": ["a"], "validation": ["b"], "test": ["c"]})
    assert describe(given, splits=official(validation=["validation"]), sizes=sizes).size_of("train") == 90


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["cat", " "]}, "dataset tiny: classes entry 1 is ' '"),
        ({"classes": [0, 1]}, "dataset tiny: classes entry 0 is 0; .*quote numbers"),
        ({"classes": ["cat", "cat"]}, "dataset tiny: classes names 'cat' twice"),
        ({"classes": ["cat"]}, "dataset tiny: classes has 1 entries"),
        ({"classes": "cat"}, "dataset tiny: classes is the string 'cat'; give a list"),
        ({"sources": {"here": parquet(label_names=["cat"])}}, "sources.here.label_names has 1 entries for 2 classes"),
        ({"source": "hub"}, "dataset tiny: source is 'hub'; give one of here"),
        ({"sources": {"here": "folder"}}, "dataset tiny: sources.here is 'folder'; give a source"),
        ({"splits": official(test=["val"])}, "dataset tiny: sources.here.splits has no 'val', .*; it has train, test"),
        ({"sizes": {"val": 3}}, r"dataset tiny: sizes has \['val'\]; its keys are train, validation, test"),
        ({"sizes": {"train": 0}}, "dataset tiny: sizes.train is 0; give a whole number from 1"),
        ({"epochs": 1.5}, "dataset tiny: epochs is 1.5"),
        ({"download_mib": -1}, "dataset tiny: download_mib is -1"),
        ({"prompt": "An image of {}"}, r"dataset tiny: prompt 'An image of \{\}' lacks \{class\}; write"),
        ({"templates": ["a {class}", "a"]}, r"dataset tiny: templates 'a' lacks \{class\}"),
        ({"templates": []}, "dataset tiny: templates is empty"),
        ({"version": 0}, "dataset tiny: version is 0"),
        ({"on_unreadable": "ignore"}, "dataset tiny: on_unreadable is 'ignore'; give one of"),
    ],
)
def test_description_that_cannot_be_meant_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(**changes)


def test_load_accepts_known_parts_and_sizes_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"part='val'.* train, validation, test"):
        describe().load(part="val", size=8, root=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'val'.*the parts are train, validation, test"):
        describe().open("val", root=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size=0"):
        describe().load(part="train", size=0, root=tmp_path)


def test_captions_put_the_words_of_each_class_into_the_templates() -> None:
    dataset = describe(templates=["a {class}.", "one {class}, a {class}"])
    assert dataset.captions == ("An image of cat", "An image of dog")
    assert dataset.ensemble == (("a cat.", "one cat, a cat"), ("a dog.", "one dog, a dog"))


def test_decoding_in_threads_changes_nothing(embedded: Callable[[str], ImageDataset]) -> None:
    dataset = embedded("pets3")
    one = dataset.load(part="validation", size=24, root=ROOT)
    many = dataset.load(part="validation", size=24, root=ROOT, workers=3)
    assert torch.equal(one.images, many.images)
    assert torch.equal(one.labels, many.labels)
    assert one.digest == many.digest


def test_decoding_passes_images_on_one_by_one(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), b"?", png(2)], [0, 0, 1], ["cat", "dog"])
    dataset, taken = describe(on_unreadable="skip"), []
    raw = dataset.open("train", root=tmp_path)
    assert raw.n_rows == 3
    assert list(raw.read_labels()) == [0, 0, 1]
    found = decode_into(raw, where="here", size=8, on_unreadable="skip", sink=lambda *given: taken.append(given))
    whole = dataset.load(part="train", size=8, root=tmp_path)
    assert torch.equal(torch.stack([image for image, _, _ in taken]), whole.images)
    assert [index for _, _, index in taken] == [0, 2]
    assert [label for _, label, _ in taken] == whole.labels.tolist() == found.labels.tolist() == [0, 1]
    assert found.skipped == whole.skipped == (1,)
    assert found.digest == whole.digest


def test_a_store_is_asked_before_anything_is_read() -> None:
    class Store:
        def find(self, dataset: ImageDataset, size: int) -> Any:
            assert (dataset.name, size) == ("tiny", 8)
            return self

        def part(self, part: Part) -> str:
            return f"prepared {part}"

    nowhere = Path("nowhere")
    store: Any = Store()
    assert describe().load(part="test", size=8, root=nowhere, store=store) == "prepared test"


def test_identity_is_of_what_decides_the_images() -> None:
    dataset = describe(sources={"here": parquet(), "there": parquet("other")})
    for same in ({"title": "Other"}, {"licence": "other"}, {"templates": ["one {class}"]}):
        assert describe(sources=dataset.sources, **same).identity == dataset.identity
    assert describe().identity == dataset.identity
    for other in (
        {"source": "there"},
        {"version": 2},
        {"classes": ["dog", "cat"]},
        {"splits": official(hold_out=3)},
        {"on_unreadable": "skip"},
    ):
        assert describe(**{"sources": dataset.sources, **other}).identity != dataset.identity


def test_cache_decodes_a_split_once_and_drops_the_least_recently_used(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(1), png(2)], [0, 1], ["cat", "dog"])
    cache = DecodedCache()
    first = cache.get(describe(), part="train", size=8, root=tmp_path)
    (tmp_path / "tiny" / "train.parquet").unlink()
    assert cache.get(describe(), part="train", size=8, root=tmp_path) is first
    test = cache.get(describe(), part="test", size=8, root=tmp_path)
    assert test is not first
    assert len(cache) == 2
    assert cache.n_bytes == first.n_bytes + test.n_bytes
    cache.max_bytes = first.n_bytes
    assert cache.get(describe(), part="test", size=8, root=tmp_path) is test
    assert len(cache) == 1
    with pytest.raises(DataError, match="no file"):
        cache.get(describe(), part="train", size=8, root=tmp_path)


def test_cache_tells_descriptions_apart(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), b"?", png(2)], [0, 0, 1], ["cat", "dog"])
    cache = DecodedCache()
    cache.get(describe(on_unreadable="skip"), part="train", size=8, root=tmp_path)
    with pytest.raises(DataError, match="unreadable"):
        cache.get(describe(), part="train", size=8, root=tmp_path)
