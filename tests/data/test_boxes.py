from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import describe

from randlora.data.boxes import Box, Boxes
from randlora.data.decode import decode_image, open_rgb
from randlora.data.errors import DataError
from randlora.data.sources import HubSource


def boxes(**changes: Any) -> Boxes:
    fields = {"objects_column": "objects", "box_fields": ["bbox"], "label_field": "category"}
    return Boxes(**{**fields, "format": "xyxy", "unit": "pixel", **changes})


def quarters() -> bytes:
    """An image of 12 x 8 pixels whose four quarters are red 0, 60, 120 and 180."""
    from PIL import Image

    image = Image.new("RGB", (12, 8))
    for number in range(4):
        left, top = 6 * (number % 2), 4 * (number // 2)
        image.paste((60 * number, 0, 0), (left, top, left + 6, top + 4))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


FORMS: dict[str, tuple[dict[str, Any], list[list[float]]]] = {
    "pixels": ({}, [[6, 0, 12, 4], [0, 4, 6, 8]]),
    "sides": ({"format": "xywh"}, [[6, 0, 6, 4], [0, 4, 6, 4]]),
    "shares": ({"unit": "share"}, [[0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1]]),
    "shares and sides": ({"format": "xywh", "unit": "share"}, [[0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5]]),
}


def write_objects(file: Path, found: list[list[float]], labels: list[int], *, form: str) -> None:
    """One image with objects, as the hub keeps them: records, a record of lists, or lists beside the image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = {"names": ["dog", "cat"], "_type": "ClassLabel"}
    box = {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "List"}
    found = [[float(number) for number in one] for one in found]
    columns: dict[str, Any] = {}
    if form == "records":
        feature: Any = {"feature": {"bbox": box, "category": label}, "_type": "List"}
        columns = {"objects": [[{"bbox": one, "category": its} for one, its in zip(found, labels, strict=True)]]}
        features = {"objects": feature}
    elif form == "lists":
        several = {name: {"feature": one, "_type": "List"} for name, one in (("bbox", box), ("category", label))}
        columns = {"objects": [{"bbox": found, "category": labels}]}
        features = {"objects": several}
    else:
        features = {name: {"feature": one, "_type": "List"} for name, one in (("bbox", box), ("category", label))}
        columns = {"bbox": [found], "category": [labels]}
    header = json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": quarters(), "path": "quarters.png"}], struct)
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": image, **columns})
    pq.write_table(table.replace_schema_metadata({"huggingface": header}), file)


def voc(**changes: Any) -> HubSource:
    fields = {"id": "voc", "revision": None, "config": None, "image_column": "image", "label_column": None}
    splits = {"train": ["train"], "test": ["test"]}
    return HubSource(**{**fields, "splits": splits, "label_names": None, "boxes": boxes(), **changes})


def objects_file(root: Path) -> Path:
    return root / "voc" / "data" / "train-00000-of-00001.parquet"


@pytest.mark.parametrize("form", ["records", "lists", "columns"])
@pytest.mark.parametrize("name", FORMS)
def test_every_box_is_cut_out_and_has_its_label(tmp_path: Path, form: str, name: str) -> None:
    changes, found = FORMS[name]
    write_objects(objects_file(tmp_path), found, [0, 1], form=form)
    cut = boxes(**changes, objects_column=None if form == "columns" else "objects")
    dataset = describe(voc(boxes=cut))
    decoded = dataset.load(part="train", size=4, root=tmp_path)
    # The source calls label 0 dog; the dataset lists cat first.
    assert decoded.labels.tolist() == [1, 0]
    assert [image[0].unique().tolist() for image in decoded.images] == [[60], [120]]
    raw = dataset.open("train", root=tmp_path)
    assert raw.n_rows is None
    assert raw.read_labels() == [1, 0]


def test_four_fields_may_hold_the_sides() -> None:
    row = {"objects": [{"x1": 1, "y1": 2, "x2": 3, "y2": 4, "category": 7}]}
    cut = boxes(box_fields=["x1", "y1", "x2", "y2"])
    assert list(cut.of(row)) == [(Box(left=1, top=2, right=3, bottom=4), 7)]


def test_an_image_without_boxes_gives_none(tmp_path: Path) -> None:
    assert list(boxes().of({"objects": []})) == []
    write_objects(objects_file(tmp_path), [], [], form="lists")
    with pytest.raises(DataError, match="the split holds no readable images"):
        describe(voc()).load(part="train", size=4, root=tmp_path)


def test_the_box_is_cut_out_before_the_image_is_resized() -> None:
    box = Box(left=6, top=0, right=12, bottom=4)
    cropped = open_rgb({"bytes": quarters()}, box)
    assert cropped.size == (6, 4)
    assert torch.equal(decode_image({"bytes": quarters(), "box": box}, 4), decode_image({"image": cropped}, 4))
    assert open_rgb({"bytes": quarters()}).size == (12, 8)


def test_boxes_are_rounded_and_cut_to_the_image() -> None:
    assert Box(left=-3, top=0.6, right=20, bottom=7.4).pixels(12, 8) == (0, 1, 12, 7)
    assert Box(left=0.26, top=0, right=0.74, bottom=1, unit="share").pixels(100, 8) == (26, 0, 74, 8)
    with pytest.raises(ValueError, match="holds no pixel of an image of 12 x 8"):
        Box(left=13, top=0, right=20, bottom=8).pixels(12, 8)


def test_a_box_outside_its_image_is_an_unreadable_image(tmp_path: Path) -> None:
    write_objects(objects_file(tmp_path), [[20, 0, 30, 4], [0, 0, 6, 4], [0, 4, 6, 8]], [0, 0, 1], form="lists")
    with pytest.raises(
        DataError, match=r"image 0 \(quarters.png\) is unreadable: .*holds no pixel of an image of 12 x 8"
    ):
        describe(voc()).load(part="train", size=4, root=tmp_path)
    assert describe(voc(), on_unreadable="skip").load(part="train", size=4, root=tmp_path).skipped == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects_column": "annotations"}, r"no column 'annotations'; set boxes to one of \['image', 'objects'\]"),
        ({"box_fields": ["box"]}, r"an object has no field 'box'; it has \['bbox', 'category'\]: set boxes to these"),
        ({"label_field": "label"}, "an object has no field 'label'"),
    ],
)
@pytest.mark.parametrize("form", ["records", "lists"])
def test_boxes_that_are_not_as_described_are_an_error(
    tmp_path: Path, changes: dict[str, Any], message: str, form: str
) -> None:
    write_objects(objects_file(tmp_path), [[0, 0, 6, 4]], [0], form=form)
    with pytest.raises(DataError, match=message):
        describe(voc(boxes=boxes(**changes))).load(part="train", size=4, root=tmp_path)


def test_objects_of_uneven_lists_or_odd_boxes_are_an_error() -> None:
    with pytest.raises(DataError, match=r"the fields of a row hold \[1, 2\] values"):
        list(boxes().of({"objects": {"bbox": [[0, 0, 1, 1]], "category": [0, 1]}}))
    with pytest.raises(DataError, match=r"a box holds 3 numbers \(\[0, 0, 1\]\); boxes have four"):
        list(boxes().of({"objects": [{"bbox": [0, 0, 1], "category": 0}]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box_fields": "bbox"}, "Boxes.box_fields = 'bbox'; valid: a list of one field, or of four"),
        ({"box_fields": ["a", "b"]}, "valid: a list of one field, or of four"),
        ({"format": "cxcywh"}, "Boxes.format = 'cxcywh'; valid: 'xyxy', 'xywh'"),
        ({"unit": "percent"}, "Boxes.unit = 'percent'; valid: 'pixel', 'share'"),
    ],
)
def test_boxes_that_cannot_be_meant_are_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxes(**changes)
