from __future__ import annotations

import dataclasses
import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import ROOT, SPLITS, describe, parquet, png, write_parquet

from randlora.data.errors import DataError
from randlora.data.images import ImageDataset
from randlora.data.sources import HubSource, ImageFolderSource


def test_missing_parquet_says_which_file_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*tiny/train\.parquet; .*make_subsets\.py"):
        describe().load(part="train", size=8, root=tmp_path)


def test_corrupt_parquet_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "train.parquet"
    write_parquet(file, [png(1), png(2)], [0, 1], ["cat", "dog"])
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot read split 'train' of ParquetSource"):
        describe().load(part="train", size=8, root=tmp_path)


def test_replaced_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "train.parquet"
    digests = set()
    for colour in (10, 90):
        write_parquet(file, [png(colour), png(colour)], [0, 1], ["cat", "dog"])
        decoded = describe().load(part="train", size=8, root=tmp_path)
        assert decoded.images[0, 0, 0, 0] == colour
        digests.add(decoded.digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_column": "img"}, r"no column 'img'; set image_column to one of \['image', 'label'\]"),
        ({"label_column": "fine"}, r"no column 'fine'; set label_column to one of"),
        ({"image_column": "label"}, r"column 'label' .* not images"),
    ],
)
def test_wrong_column_is_an_error(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    write_parquet(tmp_path / "tiny" / "train.parquet", [png(1), png(2)], [0, 1], ["cat", "dog"])
    with pytest.raises(DataError, match=message):
        describe(parquet(**changes)).load(part="train", size=8, root=tmp_path)


def folder(path: str) -> ImageFolderSource:
    return ImageFolderSource(path=path, splits=SPLITS, label_names=None)


def hub(id: str, **changes: Any) -> HubSource:
    columns = {"image_column": "image", "label_column": "label", "boxes": None, "label_names": None}
    return HubSource(**{"id": id, "revision": None, "config": None, "splits": SPLITS, **columns, **changes})


def folder_of_images(root: Path) -> ImageDataset:
    for file, colour in {
        "train/cat/1.png": 10,
        "train/cat/2.png": 20,
        "train/dog/1.png": 30,
        "train/eel/1.png": 40,
        "test/dog/1.png": 50,
        "test/eel/1.png": 60,
    }.items():
        path = root / "my [images]" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(colour))
    (root / "my [images]" / "train" / "cat" / "notes.txt").write_text("no image")
    return describe(folder("my [images]"), classes=["cat", "dog", "eel"])


def test_image_folder_keeps_labels_when_a_split_lacks_a_class(tmp_path: Path) -> None:
    dataset = folder_of_images(tmp_path)
    train = dataset.load(part="train", size=8, root=tmp_path)
    test = dataset.load(part="test", size=8, root=tmp_path)
    assert sorted(zip(train.labels.tolist(), train.images[:, 0, 0, 0].tolist(), strict=True)) == [
        (0, 10),
        (0, 20),
        (1, 30),
        (2, 40),
    ]
    assert sorted(zip(test.labels.tolist(), test.images[:, 0, 0, 0].tolist(), strict=True)) == [(1, 50), (2, 60)]
    assert train.digest == dataset.load(part="train", size=8, root=tmp_path).digest != test.digest


def test_image_folder_may_have_a_class_called_train_or_no_folders_of_splits(tmp_path: Path) -> None:
    for number, name in enumerate(("bus", "train")):
        for place in ("split/train", "split/test", "pool"):
            file = tmp_path / place / name / "1.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(number))
    dataset = describe(folder("split"), classes=["bus", "train"])
    assert dataset.load(part="test", size=8, root=tmp_path).labels.tolist() == [0, 1]
    pool = ImageFolderSource(path="pool", splits={"train": ["."], "test": ["../split/test"]}, label_names=None)
    assert describe(pool, classes=["bus", "train"]).load(part="train", size=8, root=tmp_path).labels.tolist() == [0, 1]


def test_image_folder_digest_changes_with_the_content(tmp_path: Path) -> None:
    dataset = folder_of_images(tmp_path)
    before = dataset.load(part="test", size=8, root=tmp_path).digest
    (tmp_path / "my [images]" / "test" / "dog" / "1.png").write_bytes(png(51))
    assert dataset.load(part="test", size=8, root=tmp_path).digest != before


def test_image_folder_failures_name_the_folder_and_the_layout(tmp_path: Path) -> None:
    dataset = folder_of_images(tmp_path)
    with pytest.raises(DataError, match=r"no images under .*nowhere/train; .*<path>/<split>/<class name>/<image file>"):
        describe(folder("nowhere")).load(part="train", size=8, root=tmp_path)
    (tmp_path / "my [images]" / "train" / "dog" / "1.png").write_bytes(b"?")
    with pytest.raises(DataError, match=r"image \d+ \(.*dog/1\.png\) is unreadable"):
        dataset.load(part="train", size=8, root=tmp_path)


def hub_failures() -> list[Exception]:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import OfflineModeIsEnabled

    return [ConnectionError("no route"), OfflineModeIsEnabled("offline"), DatasetNotFoundError("gone")]


@pytest.mark.parametrize("failure", hub_failures(), ids=lambda failure: type(failure).__name__)
def test_unreachable_hub_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    import datasets

    def unreachable(**arguments: Any) -> None:
        assert arguments["path"] == "someone/something"
        assert arguments["revision"] == "abc"
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    dataset = describe(hub("someone/something", revision="abc"))
    with pytest.raises(DataError, match=rf"{type(failure).__name__}: {failure}; .*prepare the dataset.*local copy"):
        dataset.load(part="train", size=8, root=tmp_path)


def test_errors_of_several_lines_keep_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(**arguments: Any) -> None:
        raise ValueError("no such commit \n\nRequest ID: 1\nEntry not found")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"HubSource 'a/b': ValueError: no such commit; check the id") as caught:
        describe(hub("a/b")).load(part="train", size=8, root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_source_with_a_loading_script_is_said_with_the_other_sources(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "copy.py").write_text("# a loading script\n")
    scripted = hub("copy")
    places = {"here": scripted, "coop": folder("elsewhere"), "files": parquet()}
    message = (
        r"^dataset tiny: cannot read split 'train' of HubSource 'copy': it needs a loading script, which the datasets "
        r"library no longer runs \(RuntimeError: .* found copy\.py\); choose another of its sources "
        r"\(dataset\.source=coop, dataset\.source=files\)$"
    )
    with pytest.raises(DataError, match=message):
        describe(sources=places).load(part="train", size=8, root=tmp_path)
    with pytest.raises(DataError, match=r"add a source without one$"):
        describe(scripted).load(part="train", size=8, root=tmp_path)


def test_hub_rows_go_through_the_same_reader(
    embedded: Callable[[str], ImageDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    real = datasets.load_dataset
    file = ROOT / "assets" / "data" / "pets3" / "test.parquet"

    def fetch(**arguments: Any) -> Any:
        assert not arguments["streaming"]
        return real("parquet", data_files={"test": str(file)}, split=arguments["split"], cache_dir=str(tmp_path))

    local = embedded("pets3")
    remote = dataclasses.replace(local, source="hub", sources={"hub": hub("a/b", label_names=local.chosen.label_names)})
    expected = local.load(part="test", size=16, root=ROOT)
    monkeypatch.setattr(datasets, "load_dataset", fetch)
    decoded = remote.load(part="test", size=16, root=ROOT)
    assert torch.equal(decoded.images, expected.images)
    assert torch.equal(decoded.labels, expected.labels)
    assert decoded.digest != expected.digest


@pytest.fixture
def hub_copy(tmp_path: Path) -> HubSource:
    """A repository of the hub in a local folder: three official splits of parquet files."""
    for number, split in enumerate(("train", "validation", "test")):
        colours = [png(10 * number + k) for k in range(4)]
        write_parquet(
            tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet", colours, [0, 1, 0, 1], ["cat", "dog"]
        )
    splits = {"train": ["train", "validation"], "test": ["test"]}
    return hub("copy", splits=splits)


def test_a_folder_stands_in_for_the_hub_and_splits_are_read_one_after_another(
    tmp_path: Path, hub_copy: HubSource
) -> None:
    dataset = describe(hub_copy, sizes={"train": 8, "test": 4})
    train = dataset.load(part="train", size=8, root=tmp_path)
    assert train.images[:, 0, 4, 4].tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    assert train.labels.tolist() == [0, 1] * 4
    assert dataset.load(part="test", size=8, root=tmp_path).images[:, 0, 4, 4].tolist() == [20, 21, 22, 23]
    with pytest.raises(DataError, match=r"there is no folder .*/nowhere; give a folder, or owner/name"):
        describe(hub("./nowhere")).load(part="train", size=8, root=tmp_path)


def test_a_split_that_the_hub_lacks_is_an_error(tmp_path: Path, hub_copy: HubSource) -> None:
    lacking = dataclasses.replace(hub_copy, splits={"train": ["trainval"], "test": ["test"]})
    with pytest.raises(DataError, match=r"cannot read split 'trainval' .*check the id, config, revision and names"):
        describe(lacking).load(part="train", size=8, root=tmp_path)


def test_splits_that_call_classes_differently_cannot_be_joined(tmp_path: Path) -> None:
    for split, names in (("one", ["cat", "dog"]), ("two", ["dog", "cat"])):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(1), png(2)], [0, 1], names)
    place = parquet(splits={"train": ["one", "two"], "test": ["two"]})
    with pytest.raises(DataError, match="its splits state different class names"):
        describe(place).load(part="train", size=8, root=tmp_path)


def test_joined_splits_have_one_digest_and_one_count(tmp_path: Path) -> None:
    for split in ("one", "two"):
        write_parquet(tmp_path / "tiny" / f"{split}.parquet", [png(1), png(2)], [0, 1], ["cat", "dog"])
    digests = set()
    for names in (["one", "two"], ["one"], ["two", "one", "two"]):
        raw = describe(parquet(splits={"train": names, "test": ["one"]})).open("train", root=tmp_path)
        assert raw.n_rows == 2 * len(names) == len(raw.read_labels())
        digests.add(raw.digest)
    assert None not in digests
    assert len(digests) == 3


def test_labels_that_are_names_are_looked_up(tmp_path: Path) -> None:
    write_table(tmp_path / "tiny" / "train.parquet", ["dog", "cat"], {"dtype": "string", "_type": "Value"})
    assert describe().load(part="train", size=8, root=tmp_path).labels.tolist() == [1, 0]
    named = describe(parquet(label_names=["cat", "dog"]), classes=["kitten", "hound"])
    assert named.load(part="train", size=8, root=tmp_path).labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"image 0 has the label 'dog', which is none of the names 'kitten', 'hound'; "):
        describe(classes=["kitten", "hound"]).load(part="train", size=8, root=tmp_path)


def test_labels_that_are_no_labels_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "train.parquet"
    write_table(file, [0.5, 1.5], {"dtype": "float64", "_type": "Value"})
    with pytest.raises(
        DataError, match=r"column 'label' of split 'train' .* holds float64, not labels; set label_column"
    ):
        describe().load(part="train", size=8, root=tmp_path)
    write_table(file, [0, None], {"dtype": "int64", "_type": "Value"})
    with pytest.raises(DataError, match="image 1 has the label None; 2 classes allow 0 to 1"):
        describe().load(part="train", size=8, root=tmp_path)


def write_table(file: Path, labels: list[Any], feature: dict[str, str]) -> None:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(k), "path": None} for k in range(len(labels))], struct)
    header = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": feature}}})
    table = pa.table({"image": images, "label": labels}).replace_schema_metadata({"huggingface": header})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def test_a_full_disk_is_not_taken_for_bad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fetch(**arguments: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise datasets.exceptions.DatasetGenerationError("broken off") from error

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    with pytest.raises(OSError, match="No space left") as caught:
        describe(hub("someone/something")).load(part="train", size=8, root=tmp_path)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {}}, r"HubSource.splits = \{\}; valid: names of splits by key"),
        ({"splits": {"train": "train"}}, "HubSource.splits.train = 'train'; valid: a list of names"),
        ({"label_names": "cat"}, "HubSource.label_names = 'cat'; valid: a list of texts, or null"),
        ({"label_names": ["cat", "dog", "cat"]}, "HubSource.label_names names 'cat' twice"),
        ({"id": ""}, "HubSource.id = ''"),
        ({"label_column": None}, "HubSource.label_column = None with boxes = None; valid: one of the two"),
    ],
)
def test_source_that_cannot_be_meant_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hub(**{"id": "a/b", **changes})


def test_loading_is_silent_and_restores_the_settings_of_the_libraries(
    embedded: Callable[[str], ImageDataset], capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets

    logger = logging.getLogger("datasets")
    before = logger.level, datasets.are_progress_bars_disabled()
    embedded("pets3").load(part="test", size=8, root=ROOT)
    with pytest.raises(DataError):
        describe(parquet("nowhere")).load(part="train", size=8, root=ROOT)
    assert (logger.level, datasets.are_progress_bars_disabled()) == before
    assert capfd.readouterr() == ("", "")
