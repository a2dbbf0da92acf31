"""Writing one pool of a prepared dataset row by row: its arrays grow on the disk and are never held in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from randlora.data.prepared_manifest import ArrayFile, PartManifest, PoolManifest

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

    from randlora.data.prepared_parts import Members

IMAGES, LABELS = KINDS = ("images", "labels")


class GrowingArray:
    """A ``.npy`` file that rows are appended to while their number is not known.

    The header is written first for no rows, and again with their number at the end: numpy pads it so that a first axis
    of any length fits.
    """

    def __init__(self, path: Path, *, dtype: str, row: Sequence[int]) -> None:
        self.path = path
        self.dtype = dtype
        self.row = tuple(row)
        self.rows = 0
        self._sha = hashlib.sha256()
        self._file: IO[bytes] = path.open("wb")
        self._write_header()

    def append(self, content: bytes | memoryview, *, rows: int) -> None:
        """Append so many rows, given as their bytes in C order."""
        self._file.write(content)
        self._sha.update(content)
        self.rows += rows

    def close(self) -> ArrayFile:
        """Complete the header, flush everything to the disk and return what the file holds."""
        self._file.flush()
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return ArrayFile(
            name=self.path.name,
            dtype=self.dtype,
            shape=(self.rows, *self.row),
            bytes=self.path.stat().st_size,
            sha256=self._sha.hexdigest(),
        )

    def discard(self) -> None:
        """Close and remove the file."""
        with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffer, which is not wanted
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _write_header(self) -> None:
        import numpy as np

        shape = (self.rows, *self.row)
        header = {"descr": self.dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


class PoolWriter:
    """The arrays of one pool, ``<pool>.images.npy`` and ``<pool>.labels.npy``, and ``<part>.rows.npy`` of its parts.

    Once they are complete, ``<pool>.json`` says so: it is what an interrupted preparation goes on from.
    """

    def __init__(self, folder: Path, pool: str, *, size: int) -> None:
        self.folder = folder
        self.pool = pool
        row = {IMAGES: (3, size, size), LABELS: ()}
        dtypes = {IMAGES: "|u1", LABELS: "<i8"}
        self._arrays: dict[str, GrowingArray] = {}
        for kind in KINDS:
            path = folder / f"{pool}.{kind}.npy"
            self._arrays[kind] = GrowingArray(path, dtype=dtypes[kind], row=row[kind])

    def append(self, image: UInt8[Tensor, "3 size size"], *, label: int) -> None:
        """Append one image."""
        self._arrays[IMAGES].append(image.contiguous().numpy().data, rows=1)
        self._arrays[LABELS].append(_int64(label), rows=1)

    @property
    def images(self) -> int:
        """How many images were appended."""
        return self._arrays[IMAGES].rows

    def finish(
        self, members: Mapping[str, Members], *, per_class: Sequence[int], skipped: Sequence[int], source: str | None
    ) -> PoolManifest:
        """Complete the arrays and leave ``<pool>.json`` beside them.

        Args:
            members: the parts by the name they are stored under.
            per_class: images of each class in the pool.
            skipped: positions in the pool of what could not be read.
            source: what it was read from.
        """
        manifest = PoolManifest(
            images=self.images,
            per_class=tuple(per_class),
            skipped=tuple(skipped),
            source=source,
            files={kind: grown.close() for kind, grown in self._arrays.items()},
            parts={name: self._part(name, part) for name, part in members.items()},
        )
        write_durably(self.folder / f"{self.pool}.json", json.dumps(dataclasses.asdict(manifest)))
        return manifest

    def _part(self, name: str, members: Members) -> PartManifest:
        rows = None
        if members.rows is not None:
            self._arrays[name] = grown = GrowingArray(self.folder / f"{name}.rows.npy", dtype="<i8", row=())
            grown.append(members.rows.contiguous().numpy().data.cast("B"), rows=len(members.rows))
            rows = grown.close()
        return PartManifest(
            images=sum(members.per_class),
            per_class=members.per_class,
            skipped=members.skipped,
            digest=members.digest,
            rows=rows,
        )

    def discard(self) -> None:
        """Remove what was written."""
        for grown in self._arrays.values():
            grown.discard()


def _int64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def finished_pool(folder: Path, pool: str) -> PoolManifest | None:
    """Return the manifest that a complete pool of an interrupted preparation left, None where there is no such pool."""
    try:
        manifest = PoolManifest.from_plain(json.loads((folder / f"{pool}.json").read_text(encoding="utf-8")))
        whole = all((folder / file.name).stat().st_size == file.bytes for file in manifest.all_files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever is wrong with it, the pool is made again
    return manifest if whole else None


def write_durably(path: Path, text: str) -> None:
    """Write a text file, its content on the disk before its name."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
