"""The state of what a dataset is read from: what decides whether prepared images are still those of their source."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from randlora.data.raw import local_path

if TYPE_CHECKING:
    from randlora.data.raw import RawSplit, Source

LISTED = 2  # levels of folders whose entries are listed: the dataset and its splits
COMMIT = re.compile("[0-9a-f]{40}")


def source_stamp(source: Source, root: Path) -> str | None:
    """Return a digest of the state of a source's local files, None for one of the hub or one that is not here.

    It rests on the size and time of change of the file, or of the files in the folder, and on the names and times of
    the folders down to two levels below. A folder's time moves when an entry is added, removed or renamed; a file
    further down that is overwritten in place goes unnoticed, which keeps this fast for millions of images.
    """
    path = local_files(getattr(source, "path", None) or getattr(source, "id", None), root)
    try:
        if path is None or not path.exists():
            return None
        states = [_state("", path.stat())]
        return _digest(states + (_listing(path, "", LISTED) if path.is_dir() else []))
    except OSError:
        return None


def source_state(source: Source, raw: RawSplit, *, root: Path) -> str | None:
    """Return what an opened part was read from: equal texts mean the same images. None where nothing tells.

    That is the digest of its file, else the stamp of its folder, else the commit on the hub.
    """
    if raw.digest is not None:
        return f"sha256:{raw.digest}"
    stamp = source_stamp(source, root)
    if stamp is not None:
        return f"stamp:{stamp}"
    revision = getattr(source, "revision", None)
    return f"commit:{revision}" if revision is not None and COMMIT.fullmatch(revision) else None


def local_files(place: str | None, root: Path) -> Path | None:
    """Return the file or folder that a source's path or id names; None for ``root``, which datasets share."""
    path = local_path(place, root) if place else None
    return None if path is None or path.resolve() == root.resolve() else path


def _listing(folder: Path, prefix: str, levels: int) -> list[list[str | int]]:
    states: list[list[str | int]] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                states.append([name, entry.stat().st_mtime_ns])
                if levels > 1:
                    states += _listing(Path(entry.path), f"{name}/", levels - 1)
            elif levels == LISTED:
                states.append(_state(name, entry.stat()))
    return states


def _state(name: str, found: os.stat_result) -> list[str | int]:
    return [name, found.st_size, found.st_mtime_ns]


def _digest(states: list[list[str | int]]) -> str:
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()
