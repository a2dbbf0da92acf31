"""Removing the folder of a run so that no half of it is ever seen."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path

from results.files import StoreError

_HIDDEN = ".forgotten-"


def remove_folder(folder: Path) -> None:
    """Remove a folder in the folder of records: it is gone in one step, then its files are.

    Raises:
        StoreError: if the disk refuses; the folder is then whole and at its place, or hidden and removed the next time.
    """
    hidden = folder.with_name(f"{_HIDDEN}{folder.name}-{secrets.token_hex(4)}")
    try:
        folder.rename(hidden)
        _delete(hidden)
    except OSError as error:
        raise StoreError(f"cannot remove {folder}: {error.strerror or error}; make the folder writable") from error


def clear_up(root: Path) -> None:
    """Remove what removals that were interrupted have left."""
    for hidden in root.glob(f"{_HIDDEN}*"):
        with contextlib.suppress(OSError):
            _delete(hidden)


def size_of(folder: Path) -> int:
    """Return the size of the files in a folder, in bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _delete(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)
