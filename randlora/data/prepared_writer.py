"""Writing one part of a prepared dataset row by row: its arrays grow on the disk and are never held in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from randlora.data.prepared_manifest import ArrayFile, PartManifest

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

IMAGES, LABELS, POSITIONS = KINDS = ("images", "labels", "positions")


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


class PartWriter:
    """The arrays of one part, ``<part>.images.npy``, ``<part>.labels.npy`` and ``<part>.positions.npy``.

    Once they are complete, ``<part>.json`` says so: it is what an interrupted preparation goes on from.
    """

    def __init__(self, folder: Path, part: str, *, size: int) -> None:
        self.folder = folder
        self.part = part
        row = {IMAGES: (3, size, size), LABELS: (), POSITIONS: ()}
        dtypes = {IMAGES: "|u1", LABELS: "<i8", POSITIONS: "<i8"}
        self._counts: dict[int, int] = {}
        self._arrays: dict[str, GrowingArray] = {}
        for kind in KINDS:
            path = folder / f"{part}.{kind}.npy"
            self._arrays[kind] = GrowingArray(path, dtype=dtypes[kind], row=row[kind])

    def append(self, image: UInt8[Tensor, "3 size size"], *, label: int) -> None:
        """Append one image."""
        self._arrays[IMAGES].append(image.contiguous().numpy().data, rows=1)
        self._arrays[LABELS].append(_int64(label), rows=1)
        self._counts[label] = self._counts.get(label, 0) + 1

    @property
    def images(self) -> int:
        """How many images were appended."""
        return self._arrays[IMAGES].rows

    def finish(self, *, n_classes: int, skipped: Sequence[int], source: str | None, digest: str) -> PartManifest:
        """Complete the arrays and leave ``<part>.json`` beside them.

        ``skipped`` are the rows of the part that have no image: the others are the positions of the images.
        """
        left_out = set(skipped)
        for position in range(self.images + len(left_out)):
            if position not in left_out:
                self._arrays[POSITIONS].append(_int64(position), rows=1)
        manifest = PartManifest(
            images=self.images,
            per_class=tuple(self._counts.get(label, 0) for label in range(n_classes)),
            skipped=tuple(skipped),
            source=source,
            digest=digest,
            files={kind: grown.close() for kind, grown in self._arrays.items()},
        )
        write_durably(self.folder / f"{self.part}.json", json.dumps(dataclasses.asdict(manifest)))
        return manifest

    def discard(self) -> None:
        """Remove what was written."""
        for grown in self._arrays.values():
            grown.discard()


def _int64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def finished_part(folder: Path, part: str) -> PartManifest | None:
    """Return the manifest that a complete part of an interrupted preparation left, None where there is no such part."""
    try:
        manifest = PartManifest.from_plain(json.loads((folder / f"{part}.json").read_text(encoding="utf-8")))
        whole = all((folder / file.name).stat().st_size == file.bytes for file in manifest.files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever is wrong with it, the part is made again
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
