"""Building a prepared dataset in a hidden folder, part by part."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from randlora.data.decode import decode_into
from randlora.data.errors import DataError, DiskError
from randlora.data.prepared_manifest import MANIFEST, SCHEMA, Manifest, PartManifest, description_digest
from randlora.data.prepared_stamp import source_stamp, source_state
from randlora.data.prepared_writer import PartWriter, finished_part, flush_folder, write_durably
from randlora.data.splits import PARTS

if TYPE_CHECKING:
    from torch import Tensor

    from randlora.data.images import ImageDataset
    from randlora.data.raw import RawSplit
    from randlora.data.splits import Part

ORIGIN = "origin.txt"
DECODERS = ("torch", "numpy", "pillow", "datasets")
MOST_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to tell whoever waits for a preparation.

    Attributes:
        kind: ``waiting`` for another process; ``outdated``: the source has changed since it was prepared; ``reading`` a
            part (a download may follow); ``decoding`` it; ``kept``: an interrupted preparation had completed the part;
            ``done``: the part is complete.
        dataset: name of the dataset.
        part: the part in question; None for the first two kinds.
        done: images decoded so far.
        total: images to decode, None where only reading tells.
        manifest: the part's, for ``kept`` and ``done``.
    """

    kind: Literal["waiting", "outdated", "reading", "decoding", "kept", "done"]
    dataset: str
    part: Part | None = None
    done: int = 0
    total: int | None = None
    manifest: PartManifest | None = None


OnProgress = Callable[[Event], None]


def default_workers() -> int:
    """Return how many threads decode: the cores that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def parts_of(dataset: ImageDataset) -> tuple[Part, ...]:
    """Return the parts that a dataset has; not all have validation images of their own."""
    return tuple(part for part in PARTS if part != "validation" or dataset.splits.has_validation)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """One preparation: decodes every part into ``folder`` and completes it with the manifest.

    Parts that an interrupted preparation completed are kept where what they were read from is still the same.
    """

    dataset: ImageDataset
    size: int
    root: Path
    folder: Path
    description: dict[str, Any]
    workers: int
    on_progress: OnProgress

    def build(self) -> Manifest:
        """Write all parts and the manifest.

        After an error of the data or the disk the folder is gone; after an interruption its complete parts are left.

        Raises:
            DataError: if the data is missing or not as described; a DiskError if the disk refuses it.
        """
        try:
            with writing(self.folder):
                self._enter()
            # before anything is read: a source that changes meanwhile is found out later
            stamp = source_stamp(self.dataset.chosen, self.root)
            parts: dict[str, PartManifest] = {part: self._part(part) for part in parts_of(self.dataset)}
            with writing(self.folder):
                return self._complete(parts, stamp)
        except DataError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _enter(self) -> None:
        """Make the folder, or take over the one that an interrupted preparation of the same kind left."""
        origin = f"schema {SCHEMA}, description {description_digest(self.description)}\n"
        path = self.folder / ORIGIN
        if self.folder.exists() and not (path.is_file() and path.read_text(encoding="utf-8") == origin):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, origin)

    def _part(self, part: Part) -> PartManifest:
        self.on_progress(Event(kind="reading", dataset=self.dataset.name, part=part))
        try:
            raw = self.dataset.open(part, root=self.root, progress=True)
        except OSError as error:
            raise DiskError(
                f"{self.dataset.where(part)}: cannot download it: {_reason(error)}; free some space, or move the "
                "cache of the Hugging Face libraries with HF_HOME"
            ) from error
        state = source_state(self.dataset.chosen, raw, root=self.root)
        kept = finished_part(self.folder, part)
        if kept is not None and state is not None and kept.source == state:
            self.on_progress(Event(kind="kept", dataset=self.dataset.name, part=part, manifest=kept))
            return kept
        with writing(self.folder):
            writer = PartWriter(self.folder, part, size=self.size)
        try:
            manifest = self._fill(writer, raw, part, state)
        except BaseException:
            writer.discard()
            raise
        self.on_progress(Event(kind="done", dataset=self.dataset.name, part=part, manifest=manifest))
        return manifest

    def _fill(self, writer: PartWriter, raw: RawSplit, part: Part, state: str | None) -> PartManifest:
        event = partial(Event, kind="decoding", dataset=self.dataset.name, part=part, total=raw.n_rows)

        def store(image: Tensor, label: int) -> None:
            with writing(self.folder):
                writer.append(image, label=label)
            self.on_progress(event(done=writer.images))

        found = decode_into(
            raw,
            where=self.dataset.where(part),
            size=self.size,
            on_unreadable=self.dataset.on_unreadable,
            sink=store,
            workers=self.workers,
        )
        self.dataset.check(part, labels=found.labels, n_skipped=len(found.skipped))
        with writing(self.folder):
            return writer.finish(
                n_classes=len(self.dataset.classes), skipped=found.skipped, source=state, digest=found.digest
            )

    def _complete(self, parts: Mapping[str, PartManifest], stamp: str | None) -> Manifest:
        manifest = Manifest(
            schema=SCHEMA,
            dataset=self.dataset.name,
            size=self.size,
            digest=description_digest(self.description),
            description=self.description,
            stamp=stamp,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: version(name) for name in DECODERS},
            bytes=sum(file.bytes for part in parts.values() for file in part.files.values()),
            parts=dict(parts),
        )
        write_durably(self.folder / MANIFEST, manifest.to_json())
        for name in (ORIGIN, *(f"{part}.json" for part in parts)):
            (self.folder / name).unlink()
        flush_folder(self.folder)
        return manifest


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a DiskError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write prepared images in {folder.parent}: {_reason(error)}; {_way_out(error)}"
        ) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _way_out(error: OSError) -> str:
    elsewhere = "choose another folder with machine.prepared_root"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"free some space or {elsewhere}; nothing of this dataset was kept"
    return f"make it writable or {elsewhere}"
