from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from randlora.data.images import ImageDataset
from randlora.data.raw import Source
from randlora.data.sources import ParquetSource
from randlora.data.splits import OfficialSplits

ROOT = Path(__file__).parents[2]
EMBEDDED = ("mini_eurosat", "fashion_mnist", "mini_gtsrb", "mini_mnist", "pets3")
# those of questions are tested in test_question_configs.py
IMAGE_CONFIGS = [
    file for file in sorted((ROOT / "conf" / "dataset").glob("*.yaml")) if "images.ImageDataset" in file.read_text()
]
SPLITS = {"train": ["train"], "test": ["test"]}


def folder_of(name: str) -> Path:
    """Where the files of an embedded dataset are: those of a subset carry the name of the whole."""
    return ROOT / "assets" / "data" / name.removeprefix("mini_")


def png(colour: int, *, size: tuple[int, int] = (6, 6)) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 255 - colour)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(file: Path, images: Sequence[bytes], labels: Sequence[int], names: Sequence[str] | None) -> None:
    """A split in the form of the embedded ones; without names, labels are plain numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    header = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": image, "path": f"{index}.png"} for index, image in enumerate(images)]
    table = pa.table({"image": pa.array(rows, struct), "label": pa.array(labels, pa.int64())})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": header}), file)


def parquet(path: str = "tiny", **changes: Any) -> ParquetSource:
    columns = {"image_column": "image", "label_column": "label"}
    return ParquetSource(**{"path": path, **columns, "splits": SPLITS, "label_names": None, **changes})


def official(**changes: Any) -> OfficialSplits:
    none = {"validation": None, "hold_out": None, "hold_out_at_most": None}
    return OfficialSplits(**{**none, "train": ["train"], "test": ["test"], "train_on": "full", **changes})


def describe(place: Source | None = None, **changes: Any) -> ImageDataset:
    """A dataset of cats and dogs at one place, by default two parquet files in the folder ``tiny``."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "version": 1,
        "source": "here",
        "sources": {"here": parquet() if place is None else place},
        "splits": official(),
        "sizes": None,
        "epochs": None,
        "download_mib": 0,
        "classes": ["cat", "dog"],
        "prompt": "An image of {class}",
        "templates": ["a photo of a {class}."],
        "licence": "none",
        "citation": "none",
    }
    return ImageDataset(**{**fields, **changes})
