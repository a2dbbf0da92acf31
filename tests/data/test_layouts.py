from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_images import describe, official, png

from randlora.data.errors import DataError
from randlora.data.layouts import CoopFolder, TorchvisionFolder, VocFolder
from randlora.data.splits import RandomSplits

SPLITS = {"train": ["train"], "validation": ["val"], "test": ["test"]}


def write_image(file: Path, colour: int, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(colour, **options))


def coop(**changes: Any) -> CoopFolder:
    fields = {"path": "cars", "images": "pictures", "split_file": "split_zhou_Cars.json", "label_names": None}
    return CoopFolder(**{**fields, "splits": SPLITS, **changes})


@pytest.fixture
def coop_root(tmp_path: Path) -> Path:
    lists: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for number, (split, name, label) in enumerate(
        [("train", "dog", 1), ("train", "cat", 0), ("val", "cat", 0), ("test", "dog", 1), ("test", "cat", 0)]
    ):
        write_image(tmp_path / "cars" / "pictures" / split / f"{number}.png", 10 * number)
        lists[split].append([f"{split}/{number}.png", label, name])
    write_lists(tmp_path, lists)
    return tmp_path


def write_lists(root: Path, lists: object) -> None:
    (root / "cars" / "split_zhou_Cars.json").write_text(json.dumps(lists))


def read_lists(root: Path) -> dict[str, list[list[Any]]]:
    return json.loads((root / "cars" / "split_zhou_Cars.json").read_text())


def test_coop_lists_give_the_splits(coop_root: Path) -> None:
    dataset = describe(
        coop(), splits=official(validation=["validation"]), sizes={"train": 2, "validation": 1, "test": 2}
    )
    for part, colours, labels in (("train", [0, 10], [1, 0]), ("validation", [20], [0]), ("test", [30, 40], [1, 0])):
        decoded = dataset.load(part=part, size=8, root=coop_root)  # type: ignore[arg-type]
        assert decoded.images[:, 0, 4, 4].tolist() == colours
        assert decoded.labels.tolist() == labels
    together = describe(coop(splits={**SPLITS, "train": ["train", "val"]}))
    assert together.load(part="train", size=8, root=coop_root).labels.tolist() == [1, 0, 0]


def test_coop_names_are_checked_and_mapped(coop_root: Path) -> None:
    swapped = describe(coop(label_names=["dog", "cat"]), classes=["hound", "kitten"])
    assert swapped.load(part="train", size=8, root=coop_root).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="states the label names 'dog', and label_names lists 'cow'"):
        describe(coop(label_names=["cat", "cow"])).load(part="train", size=8, root=coop_root)


def test_coop_images_that_are_listed_have_to_be_there(coop_root: Path) -> None:
    (coop_root / "cars" / "pictures" / "train" / "0.png").unlink()
    with pytest.raises(
        DataError,
        match=r"1 of the 2 images that .*split_zhou_Cars.json lists for train are not there, such as .*train/0.png",
    ):
        describe(coop(), on_unreadable="skip").load(part="train", size=8, root=coop_root)
    assert len(describe(coop()).load(part="test", size=8, root=coop_root)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"split_file": "split.json"},
            r"there is no file .*cars/split.json; .*as in DATASETS.md of the CoOp repository",
        ),
        ({"path": "nowhere"}, r"there is no file .*nowhere/split_zhou_Cars.json"),
        (
            {"splits": {"train": ["training"], "test": ["test"]}},
            r"no images under 'training'; it has \['train', 'val', 'test'\]: set the source's splits",
        ),
    ],
)
def test_coop_folder_that_is_not_as_described_is_an_error(
    coop_root: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        describe(coop(**changes)).load(part="train", size=8, root=coop_root)


def test_coop_file_that_contradicts_itself_is_an_error(coop_root: Path) -> None:
    good = read_lists(coop_root)
    for broken, message in (
        ({**good, "val": [["val/2.png", 0, "kitten"]]}, "calls label 0 'cat' and 'kitten'; a label has one name"),
        ({**good, "val": [["val/2.png", 2, "cat"]]}, "gives the name 'cat' to two labels"),
        ({**good, "val": [["val/2.png", 3, "cow"]]}, "has labels 0 to 3 without label 2; fetch it again"),
        ({**good, "val": [["val/2.png", "0", "cat"]]}, r"an entry of 'val' is \['val/2.png', '0', 'cat'\]; valid"),
        ({**good, "val": []}, "no images under 'val'"),
    ):
        write_lists(coop_root, broken)
        with pytest.raises(DataError, match=message):
            describe(coop()).load(part="train", size=8, root=coop_root)
    (coop_root / "cars" / "split_zhou_Cars.json").write_text('{"train": [["a.png", 0,')
    with pytest.raises(DataError, match=r"is not valid JSON .*; fetch it again"):
        describe(coop()).load(part="train", size=8, root=coop_root)


def torchvision_folder(dataset: str, **changes: Any) -> TorchvisionFolder:
    splits = {"train": {"split": "train"}, "test": {"split": "test"}}
    return TorchvisionFolder(**{"dataset": dataset, "path": ".", "splits": splits, "label_names": None, **changes})


def test_torchvision_reads_its_own_layout(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            write_image(tmp_path / "country211" / split / name / "1.png", 10 * number + len(split))
    dataset = describe(torchvision_folder("Country211", label_names=["dog", "cat"]), classes=["hound", "kitten"])
    train, test = (dataset.load(part=part, size=8, root=tmp_path) for part in ("train", "test"))
    assert (train.images[:, 0, 4, 4].tolist(), train.labels.tolist()) == ([5, 15], [1, 0])
    assert (test.images[:, 0, 4, 4].tolist(), test.labels.tolist()) == ([4, 14], [1, 0])
    raw = dataset.open("train", root=tmp_path)
    assert (raw.n_rows, raw.class_names, raw.read_labels()) == (2, ("hound", "kitten"), [1, 0])


def test_torchvision_sets_without_official_splits_are_a_pool(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(10):
            write_image(tmp_path / "eurosat" / "2750" / name / f"{number}.png", 20 * number)
    rule = RandomSplits(
        pool=["all"], per_class=True, validation=1, test=2, seed=0, digest=None, train_on="without_validation"
    )
    dataset = describe(torchvision_folder("EuroSAT", splits={"all": {}}), splits=rule)
    counts = {
        part: dataset.load(part=part, size=8, root=tmp_path).labels.bincount().tolist() for part in ("train", "test")
    }
    assert counts == {"train": [7, 7], "test": [2, 2]}


def test_an_unreadable_image_of_torchvision_can_be_skipped(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            write_image(tmp_path / "country211" / "train" / name / f"{number}.png", number)
    (tmp_path / "country211" / "train" / "cat" / "1.png").write_bytes(b"?")
    place = torchvision_folder("Country211")
    decoded = describe(place, on_unreadable="skip").load(part="train", size=8, root=tmp_path)
    assert decoded.labels.tolist() == [0, 1, 1]
    assert decoded.skipped == (1,)
    with pytest.raises(DataError, match=r"image 1 \(image 1 of Country211\) is unreadable: cannot identify image file"):
        describe(place).load(part="train", size=8, root=tmp_path)


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        (
            "Country211",
            {"split": "train"},
            r"cannot open 'train' of .*RuntimeError: Dataset not found.*is the root that",
        ),
        ("Country211", {"split": "training"}, "Unknown value 'training' for argument split"),
        ("Country211", {"part": "train"}, "TypeError: .* unexpected keyword argument 'part'"),
        ("DTDs", {"split": "train"}, "torchvision has no dataset 'DTDs'; nearest: DTD"),
    ],
)
def test_torchvision_folder_that_is_not_as_described_is_an_error(
    tmp_path: Path, dataset: str, arguments: dict[str, str], message: str
) -> None:
    place = torchvision_folder(dataset, splits={"train": arguments, "test": {"split": "test"}})
    with pytest.raises(DataError, match=message):
        describe(place).load(part="train", size=8, root=tmp_path)


def test_torchvision_splits_are_arguments() -> None:
    with pytest.raises(ValueError, match=r"TorchvisionFolder.splits.train = \['train'\]; valid: arguments"):
        torchvision_folder("DTD", splits={"train": ["train"]})


def voc(**changes: Any) -> VocFolder:
    return VocFolder(**{"path": "VOC2007", "splits": SPLITS, "label_names": ["cat", "dog"], **changes})


ANNOTATION = """<annotation>
  <object><name>{first}</name><difficult>1</difficult>
    <part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>
    <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>8</ymax></bndbox></object>
  <object><name>{second}</name><bndbox><ymin>4.4</ymin><xmin>6</xmin><xmax>99</xmax><ymax>8</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    for split, image, names in (("train", "000005", ("dog", "cat")), ("val", "000007", ("cat", "cat"))):
        write_image(tmp_path / "VOC2007" / "JPEGImages" / f"{image}.jpg", 50, size=(12, 10))
        for folder, content in (
            (f"ImageSets/Main/{split}.txt", f"{image}\n"),
            (f"Annotations/{image}.xml", ANNOTATION.format(first=names[0], second=names[1])),
        ):
            file = tmp_path / "VOC2007" / folder
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    return tmp_path


def test_every_box_of_voc_is_an_image(voc_root: Path) -> None:
    raw = describe(voc()).open("train", root=voc_root)
    assert raw.n_rows == 2
    boxes = [(encoded["box"].pixels(12, 10), label) for encoded, label in raw.rows if encoded["box"] is not None]
    assert boxes == [((1, 2, 5, 8), 1), ((6, 4, 12, 8), 0)]
    dataset = describe(voc(splits={**SPLITS, "train": ["train", "val"]}))
    decoded = dataset.load(part="train", size=8, root=voc_root)
    assert decoded.labels.tolist() == [1, 0, 0, 0]


def test_voc_folder_that_is_not_as_described_is_an_error(voc_root: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*ImageSets/Main/test.txt; the source's path is the folder"):
        describe(voc()).load(part="test", size=8, root=voc_root)
    with pytest.raises(DataError, match="image 0 has the label 'dog', which is none of the names 'cat', 'cow'"):
        describe(voc(label_names=["cat", "cow"])).load(part="train", size=8, root=voc_root)
    with pytest.raises(ValueError, match=r"VocFolder.label_names = None; valid: the names that the annotations use"):
        voc(label_names=None)
    annotation = voc_root / "VOC2007" / "Annotations" / "000005.xml"
    whole = annotation.read_text()
    for broken in (whole[:100], whole.replace("<ymin>2</ymin>", "")):
        annotation.write_text(broken)
        with pytest.raises(DataError, match=r"000005.xml is not an annotation of PASCAL VOC .*fetch it again"):
            describe(voc()).load(part="train", size=8, root=voc_root)
    (voc_root / "VOC2007" / "JPEGImages" / "000005.jpg").unlink()
    with pytest.raises(DataError, match=r"there is no file .*JPEGImages/000005.jpg"):
        describe(voc()).load(part="train", size=8, root=voc_root)
