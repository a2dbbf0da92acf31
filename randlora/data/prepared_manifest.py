"""What a prepared dataset is told apart by, and what it says about itself in its ``manifest.json``.

Nothing here imports torch: a table over every dataset reads descriptions from YAML and manifests in an instant.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randlora.data.errors import DataError

SCHEMA = 2
MANIFEST = "manifest.json"
APART = "train_without_validation"  # the other training part, where validation images are drawn out of training
DIGITS = 12  # of a description's digest in a folder's name
# what decides pixels and membership; prompts, licence and citation may change without preparing again, and so may
# splits.train_on, since both training parts are there
DECIDING = ("name", "version", "splits", "classes", "on_unreadable")


@dataclass(frozen=True, kw_only=True)
class ArrayFile:
    """One stored array.

    Attributes:
        name: file name inside the prepared folder.
        dtype: numpy's name of the element type.
        shape: number of entries along each axis.
        bytes: size of the file.
        sha256: digest of the entries, without the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    sha256: str

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> ArrayFile:
        """Return the file of what ``dataclasses.asdict`` and JSON made of it."""
        return cls(**{**data, "shape": tuple(data["shape"])})


@dataclass(frozen=True, kw_only=True)
class PartManifest:
    """A part: which of the images of its pool it consists of.

    Attributes:
        images: how many there are.
        per_class: how many of each class, in label order.
        skipped: positions in the part of images that could not be read and were left out.
        digest: digest of the part as runs record it.
        rows: their places in the arrays of the pool (int64, n), ascending; None: all of them.
    """

    images: int
    per_class: tuple[int, ...]
    skipped: tuple[int, ...]
    digest: str
    rows: ArrayFile | None

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> PartManifest:
        """Return the manifest of what ``dataclasses.asdict`` and JSON made of it."""
        rows = None if data["rows"] is None else ArrayFile.from_plain(data["rows"])
        lists = {name: tuple(data[name]) for name in ("per_class", "skipped")}
        return cls(**{**data, **lists, "rows": rows})


@dataclass(frozen=True, kw_only=True)
class PoolManifest:
    """Images that are stored together, and the parts that are taken from them.

    Attributes:
        images: how many there are.
        per_class: how many of each class, in label order.
        skipped: positions in the pool of images that could not be read and were left out.
        source: what the pool was read from (see ``prepared_stamp.source_state``), None where nothing tells.
        files: ``images`` (uint8, n x 3 x size x size) and ``labels`` (int64, n).
        parts: by the name they are stored under (see ``prepared_parts``).
    """

    images: int
    per_class: tuple[int, ...]
    skipped: tuple[int, ...]
    source: str | None
    files: Mapping[str, ArrayFile]
    parts: Mapping[str, PartManifest]

    @property
    def all_files(self) -> tuple[ArrayFile, ...]:
        """Its arrays and those of its parts."""
        return (*self.files.values(), *(part.rows for part in self.parts.values() if part.rows is not None))

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> PoolManifest:
        """Return the manifest of what ``dataclasses.asdict`` and JSON made of it."""
        files = {kind: ArrayFile.from_plain(entry) for kind, entry in data["files"].items()}
        parts = {name: PartManifest.from_plain(part) for name, part in data["parts"].items()}
        lists = {name: tuple(data[name]) for name in ("per_class", "skipped")}
        return cls(**{**data, **lists, "files": files, "parts": parts})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds.

    Attributes:
        schema: version of this layout.
        dataset: name of the dataset.
        size: pixels along a side.
        digest: digest of ``description``.
        description: what decides pixels and membership (see :func:`describe`).
        stamp: state of the local files it was made from (see ``prepared_stamp.source_stamp``), None for the hub.
        created: when, in UTC (ISO 8601).
        versions: of the libraries that decoded.
        bytes: size of all arrays.
        pools: by name.
    """

    schema: int
    dataset: str
    size: int
    digest: str
    description: Mapping[str, Any]
    stamp: str | None
    created: str
    versions: Mapping[str, str]
    bytes: int
    pools: Mapping[str, PoolManifest]

    @property
    def parts(self) -> dict[str, PartManifest]:
        """The parts of all pools by the name they are stored under."""
        return {name: part for pool in self.pools.values() for name, part in pool.parts.items()}

    def pool_of(self, part: str) -> PoolManifest:
        """Return the pool of a stored part."""
        return next(pool for pool in self.pools.values() if part in pool.parts)

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def describe(description: Mapping[str, Any], *, size: int) -> dict[str, Any]:
    """Return what decides the pixels and the membership of a dataset prepared at ``size``, as plain data.

    Args:
        description: the fields of a dataset as its YAML states them; ``plain_fields`` makes them of a dataset.
        size: pixels along a side.
    """
    chosen = description["source"]
    deciding = {name: description[name] for name in DECIDING}
    deciding["splits"] = {key: value for key, value in description["splits"].items() if key != "train_on"}
    return {**deciding, "source": description["sources"][chosen], "size": size}


def description_digest(deciding: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description, whatever the order of its keys."""
    canonical = json.dumps(deciding, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def folder_name(deciding: Mapping[str, Any]) -> str:
    """Return the name of the folder of a prepared dataset, ``<size>-<first digits of the digest>``."""
    return f"{deciding['size']}-{description_digest(deciding)[:DIGITS]}"


def plain_fields(value: Any) -> Any:
    """Return a dataclass as the plain data that its YAML states: ``_target_`` and every field; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain_fields(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): plain_fields(entry) for key, entry in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_fields(entry) for entry in value]
    return value


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a prepared folder, None if there is no such folder or an older version left it.

    Raises:
        DataError: if it cannot be read or is of a newer schema.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; {remedy(folder)}") from error
    try:
        if data["schema"] < SCHEMA:
            return None
        if data["schema"] > SCHEMA:
            raise DataError(f"{path} has schema {data['schema']}, this version reads {SCHEMA}; {remedy(folder)}")
        pools = {name: PoolManifest.from_plain(pool) for name, pool in data["pools"].items()}
        return Manifest(**{**data, "pools": pools})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a manifest of prepared data ({type(error).__name__}: {error}); {remedy(folder)}"
        ) from error


def remedy(folder: Path) -> str:
    """Return what to do about a prepared folder that is damaged."""
    return f"delete the folder {folder} and prepare the dataset again"
