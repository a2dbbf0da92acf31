"""Files that only save time: rows of text that are taken whole and unchanged, or not at all."""

from __future__ import annotations

import contextlib
import secrets
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path


def load(path: Path, *, version: str, columns: int) -> list[list[str]]:
    """Return the rows of a file; none where there is no file, it is damaged, or of another version of what wrote it."""
    try:
        header, _, text = path.read_bytes().partition(b"\n")
    except OSError:
        return []
    if header != _header(version, text):
        return []
    rows = [line.split("\t", columns - 1) for line in text.decode("ascii").split("\n")[:-1]]
    return rows if all(len(row) == columns for row in rows) else []


def save(path: Path, rows: Iterable[Sequence[str]], *, version: str) -> None:
    """Write rows of ASCII text without tabs and line breaks, whole or not at all; nothing where that is refused."""
    text = "".join("\t".join(row) + "\n" for row in rows).encode("ascii")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    # not flushed to the disk: what a crash leaves of it does not fit its header
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f"{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
        temporary.write_bytes(_header(version, text) + b"\n" + text)
        temporary.replace(path)


def _header(version: str, text: bytes) -> bytes:
    return f"a cache of {version}, may be removed; {len(text)} bytes {zlib.crc32(text):08x}".encode("ascii")
