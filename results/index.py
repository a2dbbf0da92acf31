"""What was read and checked before: one file beside the records, so that thousands of them need not be read again.

`root/.index` is a cache and no more. It holds, for each record, what its file looked like when it was checked
(size, times, inode) and all of it but the config. A record whose file looks otherwise now is read and checked again; an
index that is damaged, or of another version of this code, is ignored and made again; without one all works, slower.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import cache_file
from results.codec import decode
from results.record import Key, Record, RecordError, parse
from results.verified import VerifiedConfig

NAME = ".index"
_SETTLED_NS = 2_000_000_000
_KEY_FIELDS = tuple(field.name for field in dataclasses.fields(Key))
_CHECKED_BY = ("cache_file.py", "codec.py", "index.py", "record.py", "store.py", "verified.py")


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that was checked: what its file looked like, its status and key, and all of it but the config."""

    stamp: str
    status: str
    key: str
    body: str

    @classmethod
    def of(cls, data: Mapping[str, Any], *, stamp: str) -> Entry:
        """Return the entry of a record's parsed text, which was found to be right."""
        body = {name: value for name, value in data.items() if name != "config"}
        key = _text([data["key"][name] for name in _KEY_FIELDS])
        return cls(stamp=stamp, status=data["status"], key=key, body=_text(body))

    def record(self, path: Path, id: str) -> Record:
        """Return the record; its config is read from `path` when somebody looks at it."""
        config = VerifiedConfig(id, functools.partial(_config_of, path, id))
        return decode(Record, {**json.loads(self.body), "config": config}, where="record")


def key_text(key: Key) -> str:
    """Return a key as entries have it."""
    return _text([getattr(key, name) for name in _KEY_FIELDS])


def stamp_of(status: os.stat_result) -> str:
    """Return what changes whenever a file does: size, times of change in nanoseconds, inode."""
    return f"{status.st_size}.{status.st_mtime_ns}.{status.st_ctime_ns}.{status.st_ino}"


def is_settled(status: os.stat_result) -> bool:
    """Return whether a file was changed long enough ago that another change would show in its times."""
    return max(status.st_mtime_ns, status.st_ctime_ns) < time.time_ns() - _SETTLED_NS


def load(root: Path) -> dict[str, Entry]:
    """Return the entries by run id; none where there is no index, or none to be trusted."""
    rows = cache_file.load(root / NAME, version=_version(), columns=5)
    return {id: Entry(stamp, status, key, body) for id, stamp, status, key, body in rows}


def save(root: Path, entries: Mapping[str, Entry]) -> None:
    """Write the entries, whole or not at all; where the folder cannot be written, nothing happens."""
    rows = ((id, one.stamp, one.status, one.key, one.body) for id, one in entries.items())
    cache_file.save(root / NAME, rows, version=_version())


def _config_of(path: Path, id: str) -> Mapping[str, Any]:
    try:
        record = Record.from_parsed(parse(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read any more: {error}") from error
    if record.id != id:
        raise RecordError(f"{path} is corrupt: it is the record of run {record.id}")
    return record.config


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


@functools.cache
def _version() -> str:
    """Return a digest of the code that says what a valid record is, and how this file is written."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in _CHECKED_BY))
    return f"checked records {digest.hexdigest()[:16]}"
