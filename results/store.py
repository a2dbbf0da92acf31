"""The records of this machine on disk: one folder per run, `root/<id>/`, with `record.json` and what the run left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from results.files import StoreError, write_atomically, write_text
from results.record import Record, RecordError

if TYPE_CHECKING:
    import pandas

__all__ = ["Problem", "RecordStore", "Scan", "StoreError"]

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A record that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The usable records of a store by id, and the problems met while reading it."""

    records: Mapping[str, Record]
    problems: tuple[Problem, ...]


class RecordStore:
    """Reads and writes run folders below `root`, for instance `results/runs`; `root` need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, id: str) -> Path:
        """Return the folder of run `id`, whether it exists or not; StoreError if `id` is not 16 hex digits."""
        if not _ID.fullmatch(id):
            raise StoreError(f"{id!r} is not a run id; a run id is 16 hexadecimal digits, as `record.run_id` gives it")
        return self.root / id

    def write(self, record: Record) -> Path:
        """Write `record` whole or not at all and return its path.

        A corrupt record in its place is kept beside it as `record.corrupt-<n>.json`. Raises RecordError if the record
        would not read back equal and StoreError if the disk refuses; in both cases an earlier record is intact.
        """
        text = record.to_json()
        if Record.from_json(text) != record:
            raise RecordError(f"record {record.id}: does not read back equal; use plain floats, strings and tuples")
        path = self.folder(record.id) / "record.json"
        self._set_aside_if_corrupt(path, record.id)
        return write_text(path, text)

    def read(self, id: str) -> Record | None:
        """Return the record of run `id`, None if there is none; RecordError if it is corrupt."""
        return _read(self.folder(id) / "record.json", id)

    def scan(self) -> Scan:
        """Read every record below `root`. A corrupt one is a problem in the result, never an exception.

        A folder without a record is a run that is under way or was interrupted, and no problem.
        """
        records: dict[str, Record] = {}
        problems: list[Problem] = []
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            path = folder / "record.json"
            try:
                record = _read(path, folder.name) if folder.is_dir() else None
            except (RecordError, OSError) as error:
                problems.append(Problem(path=path, reason=str(error)))
                continue
            if record is not None:
                records[record.id] = record
        return Scan(records=records, problems=tuple(problems))

    def write_predictions(self, id: str, frame: pandas.DataFrame) -> Path:
        """Write one row per test sample to `predictions.parquet`, whole or not at all; raises StoreError."""
        path = self.folder(id) / "predictions.parquet"
        return write_atomically(path, lambda temporary: frame.to_parquet(temporary, index=False))

    def read_predictions(self, id: str) -> pandas.DataFrame:
        """Return what `write_predictions` wrote; StoreError if it is absent or unreadable."""
        import pandas

        path = self.folder(id) / "predictions.parquet"
        try:
            return pandas.read_parquet(path)
        except FileNotFoundError as error:
            raise StoreError(
                f"{path} does not exist; run {id} left no predictions, run it again to get them"
            ) from error
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}; remove {path.parent} and run it again") from error

    def _set_aside_if_corrupt(self, path: Path, id: str) -> None:
        try:
            _read(path, id)
        except RecordError:
            number = 1
            while (kept := path.with_name(f"record.corrupt-{number}.json")).exists():
                number += 1
            path.rename(kept)
        except OSError:
            return  # unreadable here means that the write itself will say what is wrong


def _read(path: Path, id: str) -> Record | None:
    try:
        record = Record.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (RecordError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is corrupt: {error}") from error
    if record.id != id:
        raise RecordError(f"{path} is corrupt: it is the record of run {record.id}")
    return record
