"""Prepared datasets: decoded and resized once, stored as memory-mapped arrays, shared by every run of a machine.

A dataset prepared at a size is one folder, ``<store>/<name>/<size>-<digest>/``, with ``manifest.json`` and for every
part ``<part>.images.npy`` (uint8, n x 3 x size x size), ``<part>.labels.npy`` and ``<part>.positions.npy`` (int64, n).
The digest covers what decides pixels and membership: chosen source, splits, classes, version and size.

The folder is built under a hidden name and renamed when it is complete, so what has its name is whole and is read
without a lock. One process builds at a time; a second one waits and then finds the work done.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from randlora.data.decode import DecodedSplit
from randlora.data.errors import DataError
from randlora.data.prepared_build import Builder, Event, OnProgress, default_workers, parts_of, writing
from randlora.data.prepared_manifest import (
    ArrayFile,
    Manifest,
    PartManifest,
    describe,
    folder_name,
    plain_fields,
    read_manifest,
    remedy,
)
from randlora.data.prepared_stamp import source_stamp, source_state
from randlora.data.prepared_writer import IMAGES, LABELS, POSITIONS, flush_folder
from randlora.data.splits import PARTS

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

    from randlora.data.images import ImageDataset
    from randlora.data.splits import Part

BLOCK = 2**24  # bytes that are hashed at a time


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared dataset on the disk."""

    folder: Path
    manifest: Manifest

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its parts, in the order of ``splits.PARTS``."""
        return tuple(part for part in PARTS if part in self.manifest.parts)

    def part(self, part: Part) -> DecodedSplit:
        """Return a part. Its images are mapped from the file, read-only: whoever writes into them ends the process.

        Raises:
            DataError: if there is no such part, or an array is missing, cut short or not what the manifest says.
        """
        stored = self._stored(part)
        images, labels = (self._array(stored.files[kind]) for kind in (IMAGES, LABELS))
        return DecodedSplit(images=images, labels=labels.clone(), digest=stored.digest, skipped=stored.skipped)

    def positions(self, part: Part) -> Int64[Tensor, " n"]:
        """Return the place of every image among the rows of ``ImageDataset.open``; errors as of ``part``."""
        return self._array(self._stored(part).files[POSITIONS]).clone()

    def problems(self, part: Part) -> tuple[str, ...]:
        """Read every byte of a part and return what differs from the manifest, a sentence each; none if all is well."""
        found = []
        for file in self._stored(part).files.values():
            try:
                digest = _sha256(self._array(file))
            except DataError as error:
                found.append(str(error))
            else:
                if digest != file.sha256:
                    found.append(
                        f"{self.folder / file.name} was altered: its entries have the digest {digest[:12]}…, the "
                        f"manifest states {file.sha256[:12]}…; {remedy(self.folder)}"
                    )
        return tuple(found)

    def _stored(self, part: Part) -> PartManifest:
        if part not in self.manifest.parts:
            raise DataError(
                f"dataset {self.manifest.dataset} has no {part} part; it was prepared with "
                f"{', '.join(self.manifest.parts)}"
            )
        return self.manifest.parts[part]

    def _array(self, file: ArrayFile) -> Tensor:
        """Map an array, after holding the file to the manifest."""
        import numpy as np

        path = self.folder / file.name
        try:
            size = path.stat().st_size
            if size != file.bytes:
                raise DataError(f"{path} has {size:,} bytes, the manifest states {file.bytes:,}; {remedy(self.folder)}")
            array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}; {remedy(self.folder)}") from error
        if array.dtype.str != file.dtype or array.shape != file.shape:
            raise DataError(
                f"{path} holds {array.dtype.str} of shape {array.shape}, the manifest states {file.dtype} of shape "
                f"{file.shape}; {remedy(self.folder)}"
            )
        with warnings.catch_warnings():
            # The pages are read-only, which torch has no word for; a private writable mapping would be refused by the
            # system for arrays larger than memory.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)


@dataclass(frozen=True, kw_only=True)
class PreparedStore:
    """The folder of all prepared datasets of a machine."""

    folder: Path

    def path(self, dataset: ImageDataset, size: int) -> Path:
        """Return the folder of a dataset at a size, whether or not it is prepared."""
        return self.folder / dataset.name / folder_name(_description(dataset, size))

    def find(self, dataset: ImageDataset, size: int) -> Prepared | None:
        """Return a dataset that is prepared at ``size``, None if it is not; the source is not looked at.

        Raises:
            DataError: if its manifest cannot be read.
        """
        path = self.path(dataset, size)
        manifest = read_manifest(path)
        return None if manifest is None else Prepared(folder=path, manifest=manifest)

    def prepare(
        self,
        dataset: ImageDataset,
        size: int,
        *,
        root: Path,
        on_progress: OnProgress = lambda event: None,
        workers: int | None = None,
    ) -> Prepared:
        """Return a dataset prepared at ``size``: what is there, or what is read, decoded and stored now.

        What is there is kept unless local files it was made from have changed since; then it is made again.

        A preparation that was interrupted (killed, or by what ``on_progress`` raised) goes on: parts that it completed
        are kept where what they were read from is the same (by the digest of the file, else the names, sizes and times
        of the folder, else the commit on the hub); the part under way starts again. After an error nothing is left.

        Args:
            dataset: the dataset; its chosen source is read.
            size: pixels a side.
            root: folder that relative paths of the source start from.
            on_progress: is told what happens, after every image too; what it raises ends the preparation.
            workers: threads that decode; None: one for each core. They change no bit of the result.

        Raises:
            ValueError: for a size or a number of workers below 1.
            DataError: if the data is missing or not as described; a DiskError if the disk refuses it.
        """
        workers = default_workers() if workers is None else workers
        if size < 1 or workers < 1:
            raise ValueError(f"prepare(size={size}, workers={workers}): both are at least 1")
        found = self.find(dataset, size)
        if found is not None and is_current(found, dataset, root):
            return found
        path = self.path(dataset, size)
        with self._lock(path, lambda: on_progress(Event(kind="waiting", dataset=dataset.name))):
            found = self.find(dataset, size)
            if found is not None and is_current(found, dataset, root):
                return found
            if found is not None:
                on_progress(Event(kind="outdated", dataset=dataset.name))
            builder = Builder(
                dataset=dataset,
                size=size,
                root=root,
                folder=path.with_name(f".{path.name}.partial"),
                description=_description(dataset, size),
                workers=workers,
                on_progress=on_progress,
            )
            manifest = builder.build()
            with writing(path):
                _put(builder.folder, path)
        return Prepared(folder=path, manifest=manifest)

    @contextmanager
    def _lock(self, path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
        """Let one process at a time into the block; the system takes the lock back when its holder dies."""
        import filelock

        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                on_wait()
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


def is_current(prepared: Prepared, dataset: ImageDataset, root: Path) -> bool:
    """Return whether the local files that a dataset was prepared from are unchanged; true where they are not here.

    Where times or names moved, the digests of files decide, as far as the source has them.
    """
    stamp = source_stamp(dataset.chosen, root)
    if stamp is None or stamp == prepared.manifest.stamp:
        return True
    try:
        states = {
            part: source_state(dataset.chosen, dataset.open(part, root=root), root=root) for part in parts_of(dataset)
        }
    except DataError:
        return False
    return states == {part: stored.source for part, stored in prepared.manifest.parts.items()}


def _description(dataset: ImageDataset, size: int) -> dict[str, Any]:
    return describe(plain_fields(dataset), size=size)


def _put(complete: Path, path: Path) -> None:
    """Give a complete folder its name, in place of what had it; whoever reads that goes on reading it."""
    replaced = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.rename(replaced)
    complete.rename(path)
    flush_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sha256(array: Tensor) -> str:
    sha = hashlib.sha256()
    flat = array.reshape(-1).view(torch.uint8)
    for block in flat.split(BLOCK):
        sha.update(block.numpy().data)
    return sha.hexdigest()
