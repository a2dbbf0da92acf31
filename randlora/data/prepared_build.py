"""Building a prepared dataset in a hidden folder, pool by pool."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from randlora.data.decode import decode_into
from randlora.data.errors import DataError, DiskError
from randlora.data.prepared_manifest import MANIFEST, SCHEMA, Manifest, PoolManifest, description_digest
from randlora.data.prepared_parts import MemberCounter, StoredPart, pools_of, stored_name
from randlora.data.prepared_stamp import source_stamp, source_state
from randlora.data.prepared_writer import PoolWriter, finished_pool, flush_folder, write_durably

if TYPE_CHECKING:
    from torch import Tensor

    from randlora.data.images import ImageDataset
    from randlora.data.raw import RawSplit

ORIGIN = "origin.txt"
DECODERS = ("torch", "numpy", "pillow", "datasets")
MOST_WORKERS = 16


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to tell whoever waits for a preparation.

    Attributes:
        kind: ``waiting`` for another process; ``outdated``: the source has changed since it was prepared; ``reading`` a
            pool (a download may follow); ``decoding`` it; ``kept``: an interrupted preparation had completed the pool;
            ``done``: the pool is complete.
        dataset: name of the dataset.
        pool: the pool in question, such as ``train+validation``; None for the first two kinds.
        done: images decoded so far.
        total: images to decode, None where only reading tells.
        manifest: the pool's, for ``kept`` and ``done``.
    """

    kind: Literal["waiting", "outdated", "reading", "decoding", "kept", "done"]
    dataset: str
    pool: str | None = None
    done: int = 0
    total: int | None = None
    manifest: PoolManifest | None = None


OnProgress = Callable[[Event], None]


def default_workers() -> int:
    """Return how many threads decode: the cores that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """One preparation: decodes every pool into ``folder`` and completes it with the manifest.

    Pools that an interrupted preparation completed are kept where what they were read from is still the same.
    """

    dataset: ImageDataset
    size: int
    root: Path
    folder: Path
    description: dict[str, Any]
    workers: int
    on_progress: OnProgress

    def build(self) -> Manifest:
        """Write all pools and the manifest.

        After an error of the data or the disk the folder is gone; after an interruption its complete pools are left.

        Raises:
            DataError: if the data is missing or not as described; a DiskError if the disk refuses it.
        """
        try:
            with writing(self.folder):
                self._enter()
            # before anything is read: a source that changes meanwhile is found out later
            stamp = source_stamp(self.dataset.chosen, self.root)
            pools = {name: self._pool(name, parts) for name, parts in pools_of(self.dataset).items()}
            with writing(self.folder):
                return self._complete(pools, stamp)
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

    def _pool(self, name: str, parts: Mapping[str, StoredPart]) -> PoolManifest:
        self.on_progress(Event(kind="reading", dataset=self.dataset.name, pool=name))
        first = next(iter(parts.values())).part
        try:
            raw = self.dataset.open_pool(first, root=self.root, progress=True)
        except OSError as error:
            raise DiskError(
                f"{self.dataset.where(first)}: cannot download it: {_reason(error)}; free some space, or move the "
                "cache of the Hugging Face libraries with HF_HOME"
            ) from error
        state = source_state(self.dataset.chosen, raw, root=self.root)
        kept = finished_pool(self.folder, name)
        if kept is not None and state is not None and kept.source == state:
            self._hold(kept, parts)
            self.on_progress(Event(kind="kept", dataset=self.dataset.name, pool=name, manifest=kept))
            return kept
        raw = replace(raw, read_labels=cache(raw.read_labels))  # every part asks for them
        counters = {part: MemberCounter(stored, raw) for part, stored in parts.items()}
        self._hold_lengths(raw, parts, counters)
        with writing(self.folder):
            writer = PoolWriter(self.folder, name, size=self.size)
        try:
            manifest = self._fill(writer, raw, counters, where=self.dataset.where(first), state=state)
            self._hold(manifest, parts)
        except BaseException:
            writer.discard()
            raise
        self.on_progress(Event(kind="done", dataset=self.dataset.name, pool=name, manifest=manifest))
        return manifest

    def _hold_lengths(
        self, raw: RawSplit, parts: Mapping[str, StoredPart], counters: Mapping[str, MemberCounter]
    ) -> None:
        """Hold the numbers of images to the description, as far as they are known before anything is decoded."""
        for part in self._asked(parts):
            positions = counters[part].positions
            length = raw.n_rows if positions is None else len(positions)
            if length is not None:
                self.dataset.check_size(parts[part].part, length)

    def _hold(self, manifest: PoolManifest, parts: Mapping[str, StoredPart]) -> None:
        """Hold what was decoded to the description."""
        for part in self._asked(parts):
            found = manifest.parts[part]
            self.dataset.check(parts[part].part, per_class=found.per_class, n_skipped=len(found.skipped))

    def _asked(self, parts: Mapping[str, StoredPart]) -> list[str]:
        """Return the stored parts that the dataset itself has; another ``train_on`` is held to it when it is asked."""
        train_on = self.dataset.splits.train_on
        names = (stored_name(stored.part, train_on=train_on, stored=parts) for stored in parts.values())
        return list(dict.fromkeys(names))

    def _fill(
        self,
        writer: PoolWriter,
        raw: RawSplit,
        counters: Mapping[str, MemberCounter],
        *,
        where: str,
        state: str | None,
    ) -> PoolManifest:
        event = partial(Event, kind="decoding", dataset=self.dataset.name, pool=writer.pool, total=raw.n_rows)

        def store(image: Tensor, label: int, index: int) -> None:
            with writing(self.folder):
                writer.append(image, label=label)
            for counter in counters.values():
                counter.add(image, index)
            self.on_progress(event(done=writer.images))

        found = decode_into(
            raw,
            where=where,
            size=self.size,
            on_unreadable=self.dataset.on_unreadable,
            sink=store,
            workers=self.workers,
        )
        n_classes = len(self.dataset.classes)
        members = {
            part: counter.members(found, size=self.size, n_classes=n_classes) for part, counter in counters.items()
        }
        with writing(self.folder):
            per_class = found.labels.bincount(minlength=n_classes).tolist()
            return writer.finish(members, per_class=per_class, skipped=found.skipped, source=state)

    def _complete(self, pools: Mapping[str, PoolManifest], stamp: str | None) -> Manifest:
        manifest = Manifest(
            schema=SCHEMA,
            dataset=self.dataset.name,
            size=self.size,
            digest=description_digest(self.description),
            description=self.description,
            stamp=stamp,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: version(name) for name in DECODERS},
            bytes=sum(file.bytes for pool in pools.values() for file in pool.all_files),
            pools=dict(pools),
        )
        write_durably(self.folder / MANIFEST, manifest.to_json())
        for name in (ORIGIN, *(f"{pool}.json" for pool in pools)):
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
