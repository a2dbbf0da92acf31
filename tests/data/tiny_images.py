from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from randlora.data.images import ImageDataset
from randlora.data.sources import ParquetSource

ROOT = Path(__file__).parents[2]
EMBEDDED = ("eurosat", "fashion_mnist", "gtsrb", "mnist", "pets3")


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


def describe(**changes: Any) -> ImageDataset:
    fields: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "version": 1,
        "source": ParquetSource(path="tiny"),
        "image_column": "image",
        "label_column": "label",
        "train_split": "train",
        "test_split": "test",
        "classes": ["cat", "dog"],
        "source_classes": None,
        "prompt": "An image of {class}",
        "templates": ["a photo of a {class}."],
        "licence": "none",
        "citation": "none",
    }
    return ImageDataset(**{**fields, **changes})
