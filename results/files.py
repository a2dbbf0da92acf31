"""Files that are either wholly written or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path


class StoreError(RuntimeError):
    """A result could not be written or read; the message names the path, the reason and what to do."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary file beside `path`, flush it to the disk and move it to `path` in one step.

    Whatever stood at `path` stays intact until the new file is complete. On any failure the temporary file, and
    folders made for it, are removed; an OSError (full disk, read-only folder) is raised as StoreError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    made: list[Path] = []
    try:
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
    except BaseException as error:
        _clean(temporary, made)
        if isinstance(error, OSError):
            raise StoreError(f"cannot write {path}: {error.strerror or error}; {_remedy(error)}") from error
        raise
    with contextlib.suppress(OSError):
        _flush(path.parent)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, wholly or not at all; raises StoreError."""
    return write_atomically(path, lambda temporary: _fill(temporary, text))


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _clean(temporary: Path, made: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run it again, earlier results are intact"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "make the folder writable or choose another one, earlier results are intact"
    return "earlier results are intact"
