"""What a process and its libraries print, in the file of the run that it is about."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from results.files import StoreError

LOG = "log.txt"
FAILURE = "failure.txt"
STREAMS = (1, 2)
TAIL_BYTES = 64 * 1024


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Let everything that this process prints go to the end of a file, what compiled code prints included.

    Raises:
        StoreError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free some space or make the folder writable"
        ) from error
    _flush()
    kept = [os.dup(number) for number in STREAMS]
    try:
        for number in STREAMS:
            os.dup2(file.fileno(), number)
        yield
    finally:
        _flush()
        for number, before in zip(STREAMS, kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        file.close()


def tail(path: Path, *, lines: int) -> list[str]:
    """Return the last lines of a file that are not empty, none where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # a progress bar draws one line over and over: what counts is how it looked last
    shown = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in shown if line][-lines:]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
