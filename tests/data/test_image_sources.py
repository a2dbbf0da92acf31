from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import ROOT, describe, png, write_parquet

from randlora.data.errors import DataError
from randlora.data.images import ImageDataset
from randlora.data.sources import HubSource, ImageFolderSource, ParquetSource


def test_missing_parquet_says_which_file_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*tiny/train\.parquet; .*make_subsets\.py"):
        describe().load(split="train", size=8, root=tmp_path)


def test_corrupt_parquet_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "train.parquet"
    write_parquet(file, [png(1), png(2)], [0, 1], ["cat", "dog"])
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot read split 'train' of ParquetSource"):
        describe().load(split="train", size=8, root=tmp_path)


def test_replaced_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "train.parquet"
    digests = set()
    for colour in (10, 90):
        write_parquet(file, [png(colour), png(colour)], [0, 1], ["cat", "dog"])
        decoded = describe().load(split="train", size=8, root=tmp_path)
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
        describe(**changes).load(split="train", size=8, root=tmp_path)


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
    return describe(source=ImageFolderSource(path="my [images]"), classes=["cat", "dog", "eel"])


def test_image_folder_keeps_labels_when_a_split_lacks_a_class(tmp_path: Path) -> None:
    dataset = folder_of_images(tmp_path)
    train = dataset.load(split="train", size=8, root=tmp_path)
    test = dataset.load(split="test", size=8, root=tmp_path)
    assert sorted(zip(train.labels.tolist(), train.images[:, 0, 0, 0].tolist(), strict=True)) == [
        (0, 10),
        (0, 20),
        (1, 30),
        (2, 40),
    ]
    assert sorted(zip(test.labels.tolist(), test.images[:, 0, 0, 0].tolist(), strict=True)) == [(1, 50), (2, 60)]
    assert train.digest == dataset.load(split="train", size=8, root=tmp_path).digest != test.digest


def test_image_folder_digest_changes_with_the_content(tmp_path: Path) -> None:
    dataset = folder_of_images(tmp_path)
    before = dataset.load(split="test", size=8, root=tmp_path).digest
    (tmp_path / "my [images]" / "test" / "dog" / "1.png").write_bytes(png(51))
    assert dataset.load(split="test", size=8, root=tmp_path).digest != before


def test_image_folder_failures_name_the_folder_and_the_layout(tmp_path: Path) -> None:
    dataset = folder_of_images(tmp_path)
    with pytest.raises(DataError, match=r"no images under .*nowhere/train; .*<path>/<split>/<class name>/<image file>"):
        describe(source=ImageFolderSource(path="nowhere")).load(split="train", size=8, root=tmp_path)
    (tmp_path / "my [images]" / "train" / "dog" / "1.png").write_bytes(b"?")
    with pytest.raises(DataError, match=r"image \d+ \(.*dog/1\.png\) is unreadable"):
        dataset.load(split="train", size=8, root=tmp_path)


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
    dataset = describe(source=HubSource(id="someone/something", revision="abc", config=None))
    with pytest.raises(DataError, match=rf"{type(failure).__name__}: {failure}; .*prepare the dataset.*local copy"):
        dataset.load(split="train", size=8, root=tmp_path)


def test_hub_rows_go_through_the_same_reader(
    embedded: Callable[[str], ImageDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    real = datasets.load_dataset
    file = ROOT / "assets" / "data" / "pets3" / "test.parquet"

    def hub(**arguments: Any) -> Any:
        assert not arguments["streaming"]
        return real("parquet", data_files={"test": str(file)}, split=arguments["split"], cache_dir=str(tmp_path))

    local = embedded("pets3")
    fields = {field: getattr(local, field) for field in local.__dataclass_fields__}
    remote = ImageDataset(**{**fields, "source": HubSource(id="a/b", revision=None, config=None)})
    expected = local.load(split="test", size=16, root=ROOT)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    decoded = remote.load(split="test", size=16, root=ROOT)
    assert torch.equal(decoded.images, expected.images)
    assert torch.equal(decoded.labels, expected.labels)
    assert decoded.digest != expected.digest


def test_loading_is_silent_and_restores_the_settings_of_the_libraries(
    embedded: Callable[[str], ImageDataset], capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets

    logger = logging.getLogger("datasets")
    before = logger.level, datasets.are_progress_bars_disabled()
    embedded("pets3").load(split="test", size=8, root=ROOT)
    with pytest.raises(DataError):
        describe(source=ParquetSource(path="nowhere")).load(split="train", size=8, root=ROOT)
    assert (logger.level, datasets.are_progress_bars_disabled()) == before
    assert capfd.readouterr() == ("", "")
