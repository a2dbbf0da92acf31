"""Prepared datasets: decoded and resized once, stored as memory-mapped arrays, shared by every run of a machine.

A dataset prepared at a size is one folder, ``<store>/<name>/<size>-<digest>/``, with ``manifest.json``. Every image is
stored once: ``<pool>.images.npy`` (uint8, n x 3 x size x size) and ``<pool>.labels.npy`` (int64, n) hold the official
splits that one or several parts are taken from, and ``<part>.rows.npy`` (int64) which of them a part consists of, where
that is not all. The digest covers what decides pixels and membership: chosen source, splits, classes, version and size;
the training parts of both ``train_on`` are there.

The folder is built under a hidden name and renamed when it is complete, so what has its name is whole and is read
without a lock. One process builds at a time; a second one waits and then finds the work done.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from randlora.data.decode import DecodedSplit
from randlora.data.errors import DataError
from randlora.data.prepared_build import Builder, Event, OnProgress, default_workers, writing
from randlora.data.prepared_check import check_sizes, is_current
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
from randlora.data.prepared_parts import stored_name
from randlora.data.prepared_writer import IMAGES, LABELS, flush_folder
from randlora.data.splits import PARTS

if TYPE_CHECKING:
    from torch import Tensor

    from randlora.data.images import ImageDataset
    from randlora.data.splits import Part, TrainOn

BLOCK = 2**24  # bytes that are hashed at a time


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared dataset on the disk, read with one of the two training parts."""

    folder: Path
    manifest: Manifest
    train_on: TrainOn

    @property
    def parts(self) -> Mapping[Part, PartManifest]:
        """What is said of its parts, in the order of ``splits.PARTS``."""
        stored = self.manifest.parts
        return {part: stored[self._name(part)] for part in PARTS if part in stored}

    def part(self, part: Part) -> DecodedSplit:
        """Return a part. Its images stay in the file, mapped read-only: whoever writes into them ends the process.

        Raises:
            DataError: if there is no such part, or an array is missing, cut short or not what the manifest says.
        """
        if part not in self.parts:
            raise DataError(
                f"dataset {self.manifest.dataset} has no {part} part; it was prepared with {', '.join(self.parts)}"
            )
        stored, files = self.parts[part], self.manifest.pool_of(self._name(part)).files
        rows = None if stored.rows is None else self._array(stored.rows).clone()
        images, labels = (self._array(files[kind]) for kind in (IMAGES, LABELS))
        return DecodedSplit(
            stored=images,
            labels=labels.clone() if rows is None else labels[rows],
            digest=stored.digest,
            skipped=stored.skipped,
            rows=rows,
        )

    def problems(self) -> dict[str, str]:
        """Read every byte once and return, by file, what differs from the manifest, as a sentence."""
        found = {}
        for file in (file for pool in self.manifest.pools.values() for file in pool.all_files):
            try:
                digest = _sha256(self._array(file))
            except DataError as error:
                found[file.name] = str(error)
            else:
                if digest != file.sha256:
                    found[file.name] = (
                        f"{self.folder / file.name} was altered: its entries have the digest {digest[:12]}…, the "
                        f"manifest states {file.sha256[:12]}…; {remedy(self.folder)}"
                    )
        return found

    def files_of(self, part: Part) -> tuple[str, ...]:
        """Return the names of the files that a part is read from."""
        rows = self.parts[part].rows
        files = (*self.manifest.pool_of(self._name(part)).files.values(), *(() if rows is None else (rows,)))
        return tuple(file.name for file in files)

    def _name(self, part: Part) -> str:
        return stored_name(part, train_on=self.train_on, stored=self.manifest.parts)

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
            DataError: if its manifest cannot be read, or it holds other numbers of images than ``sizes`` states.
        """
        found = self._find(dataset, size)
        if found is not None:
            check_sizes(found, dataset)
        return found

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

        A preparation that was interrupted (killed, or by what ``on_progress`` raised) goes on: pools that it completed
        are kept where what they were read from is the same (by the digest of the file, else the names, sizes and times
        of the folder, else the commit on the hub); the pool under way starts again. After an error nothing is left.

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
        found = self._find(dataset, size)
        if found is not None and is_current(found, dataset, root):
            check_sizes(found, dataset)
            return found
        path = self.path(dataset, size)
        with self._lock(path, lambda: on_progress(Event(kind="waiting", dataset=dataset.name))):
            found = self._find(dataset, size)
            if found is not None and is_current(found, dataset, root):
                check_sizes(found, dataset)
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
        return Prepared(folder=path, manifest=manifest, train_on=dataset.splits.train_on)

    def _find(self, dataset: ImageDataset, size: int) -> Prepared | None:
        path = self.path(dataset, size)
        manifest = read_manifest(path)
        if manifest is None:
            return None
        return Prepared(folder=path, manifest=manifest, train_on=dataset.splits.train_on)

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
