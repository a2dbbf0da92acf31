from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import ROOT, describe, official, png

from randlora.data.errors import DataError
from randlora.data.sources import WebDatasetSource


def shards(id: str = "wds", **changes: Any) -> WebDatasetSource:
    columns = {"image_column": "png", "label_column": "cls", "label_names": None}
    splits = {"train": ["train"], "test": ["test"]}
    return WebDatasetSource(**{"id": id, "revision": None, "splits": splits, **columns, **changes})


def write_shard(file: Path, images: Sequence[bytes], labels: Sequence[object], *, first: int = 0) -> None:
    """A shard as those of clip-benchmark/wds_*: s0000000.png, s0000000.cls, and so on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for number, (image, label) in enumerate(zip(images, labels, strict=True), start=first):
            for ending, content in (("png", image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"s{number:07d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for number in range(2):
        images = [png(10 * number + k) for k in range(4)]
        write_shard(tmp_path / "wds" / "train" / f"{number}.tar", images, [0, 1, 0, 1], first=4 * number)
    write_shard(tmp_path / "wds" / "test" / "0.tar", [png(99)], [1])
    (tmp_path / "wds" / "train" / "nshards.txt").write_text("2")
    return tmp_path


def test_shards_are_read_in_order(local: Path) -> None:
    dataset = describe(shards(), sizes={"train": 8, "test": 1})
    train = dataset.load(part="train", size=8, root=local)
    assert train.images[:, 0, 4, 4].tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    assert train.labels.tolist() == [0, 1] * 4
    assert dataset.load(part="test", size=8, root=local).images[:, 0, 4, 4].tolist() == [99]
    raw = dataset.open("train", root=local)
    assert raw.n_rows is None
    assert raw.read_labels() == [0, 1] * 4


def test_a_split_may_be_a_pattern_of_files(local: Path) -> None:
    one = shards(splits={"train": ["train/1.tar", "train/0.tar"], "test": ["t*/0.tar"]})
    train = describe(one).load(part="train", size=8, root=local)
    assert train.images[:, 0, 4, 4].tolist() == [10, 11, 12, 13, 0, 1, 2, 3]


def test_images_can_be_held_out_though_shards_state_no_number(local: Path) -> None:
    dataset = describe(shards(), splits=official(hold_out=2, train_on="without_validation"))
    parts = [dataset.load(part=part, size=8, root=local) for part in ("train", "validation")]
    assert [len(part) for part in parts] == [6, 2]
    assert sorted(torch.cat([part.images[:, 0, 4, 4] for part in parts]).tolist()) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_real_images_come_out_of_shards_as_they_went_in(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(ROOT / "assets" / "data" / "eurosat" / "test.parquet").slice(0, 30)
    images, labels = [image["bytes"] for image in table["image"].to_pylist()], table["label"].to_pylist()
    write_shard(tmp_path / "wds" / "test" / "0.tar", images[:17], labels[:17])
    write_shard(tmp_path / "wds" / "test" / "1.tar", images[17:], labels[17:], first=17)
    raw = describe(shards(), classes=[f"class {k}" for k in range(10)]).open("test", root=tmp_path)
    assert [(encoded["bytes"], label) for encoded, label in raw.rows] == list(zip(images, labels, strict=True))


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_shard_is_an_error(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "wds" / "train" / "0.tar"
    noise = torch.randint(256, (40, 20000), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_shard(file, [row.numpy().tobytes() for row in noise], [0, 1] * 20)
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(DataError, match=r"cannot read split 'train' of WebDatasetSource.*unexpected end of data"):
        describe(shards(), on_unreadable="skip").load(part="train", size=8, root=tmp_path)


def test_a_shard_cut_between_members_is_found_by_the_stated_size(local: Path) -> None:
    file = local / "wds" / "train" / "1.tar"
    with tarfile.open(file) as tar:
        boundary = tar.getmember("s0000006.png").offset
    file.write_bytes(file.read_bytes()[:boundary])
    assert len(describe(shards()).load(part="train", size=8, root=local)) == 6
    with pytest.raises(DataError, match="holds 6 images, sizes states 8; the download may be incomplete"):
        describe(shards(), sizes={"train": 8}).load(part="train", size=8, root=local)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"splits": {"train": ["val"], "test": ["test"]}},
            r"no file matches val/\*.tar in .*wds for split 'val'; check",
        ),
        (
            {"image_column": "webp"},
            r"no column 'webp'; set image_column to one of \['png', 'cls', '__key__', '__url__'\]",
        ),
        ({"label_column": "json"}, "no column 'json'; set label_column to one of"),
        ({"label_column": "__key__"}, "image 0 has the label 's0000000', which is none of the names 'cat', 'dog'"),
        ({"label_names": ["cat", "dog"]}, "states no label names to check; set label_names: null"),
    ],
)
def test_shards_that_are_not_as_described_are_an_error(local: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        describe(shards(**changes)).load(part="train", size=8, root=local)


def test_a_label_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "wds" / "train" / "0.tar", [png(1)], ["cat"])
    with pytest.raises(DataError, match=r"cannot read split 'train' .*invalid literal for int"):
        describe(shards()).load(part="train", size=8, root=tmp_path)


def test_shards_of_the_hub_are_fetched_by_pattern_and_revision(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def snapshot_download(**arguments: Any) -> str:
        asked.append(arguments)
        return str(local / "wds")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    dataset = describe(shards("someone/wds_tiny", revision="abc"))
    assert len(dataset.load(part="train", size=8, root=local)) == 8
    folder = {"repo_id": "someone/wds_tiny", "repo_type": "dataset", "revision": "abc"}
    assert asked == [{**folder, "allow_patterns": ["train/*.tar"]}]


def test_an_unreachable_hub_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    for failure in (OfflineModeIsEnabled("offline"), LocalEntryNotFoundError("not cached")):

        def snapshot_download(failure: Exception = failure, **arguments: Any) -> str:
            raise failure

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        with pytest.raises(
            DataError, match=rf"cannot read split 'train/\*.tar' .*{failure}; check the id.*local folder"
        ):
            describe(shards("someone/wds_tiny")).load(part="train", size=8, root=tmp_path)
