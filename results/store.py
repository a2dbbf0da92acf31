"""The records of this machine on disk: one folder per run, `root/<id>/`, with `record.json` and what the run left."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import index
from results.files import StoreError, write_atomically, write_text
from results.record import NewerRecordError, Record, RecordError, parse
from results.records import Records

if TYPE_CHECKING:
    import pandas

__all__ = ["Problem", "RecordStore", "Scan", "StoreError"]

_ID = re.compile(r"[0-9a-f]{16}")
_WORTH_AN_INDEX = 100  # records to check; as many are checked in the time of one blink
OnRead = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A record that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The usable records of a store by id, and the problems met while reading it.

    `newer` are records of a newer version of the suite, by run id, and what to do. They are no problems: they are
    never moved or overwritten, and their runs are not to be run by this version.
    """

    records: Records
    problems: tuple[Problem, ...]
    newer: Mapping[str, str] = field(default_factory=dict)


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
        would not read back equal and StoreError if the disk refuses or a newer version of the suite has written the
        record in its place; in all cases an earlier record is intact.
        """
        text = record.to_json()
        if Record.from_json(text) != record:
            raise RecordError(f"record {record.id}: does not read back equal; use plain floats, strings and tuples")
        path = self.folder(record.id) / "record.json"
        self._set_aside_if_corrupt(path, record.id)
        return write_text(path, text)

    def read(self, id: str) -> Record | None:
        """Return the record of run `id`, None if there is none.

        Raises RecordError if it is corrupt, NewerRecordError if a newer version of the suite has written it.
        """
        try:
            return _read(self.folder(id) / "record.json", id).record
        except FileNotFoundError:
            return None

    def stamp(self, id: str) -> str | None:
        """Return what tells the record of run `id` from one that replaces it, None where there is none."""
        try:
            # opened, since a shared folder may tell of a file as it was a while ago
            with (self.folder(id) / "record.json").open("rb") as file:
                return index.stamp_of(os.fstat(file.fileno()))
        except OSError:
            return None

    def scan(self, *, on_read: OnRead | None = None) -> Scan:
        """Return every record below `root`. A corrupt one is a problem in the result, never an exception.

        Records that were checked before and whose files have not changed since are taken from `root/.index`, which
        this writes where there are many. A folder without a record is a run that is under way or was interrupted, and
        no problem. `on_read` hears how many records that have to be checked are done, and of how many. Raises
        StoreError where `root` cannot be read.
        """
        known = index.load(self.root)
        listed, problems = self._listed()
        entries = {id: known[id] for id, stamp in listed.items() if id in known and known[id].stamp == stamp}
        to_read = [id for id in listed if id not in entries]
        worth_it = len(to_read) + len(known) - len(entries) > max(_WORTH_AN_INDEX, len(listed) // 50)
        fresh: dict[str, index.Entry] = {}
        made: dict[str, Record] = {}
        newer: dict[str, str] = {}
        for done, id in enumerate(to_read):
            path = self.root / id / "record.json"
            try:
                found = _read(path, id)
            except FileNotFoundError:
                continue  # removed since it was listed
            except NewerRecordError as error:
                newer[id] = str(error)
            except (RecordError, OSError) as error:
                problems.append(Problem(path=path, reason=str(error)))
            else:
                made[id] = found.record
                if worth_it and index.is_settled(found.status):
                    fresh[id] = found.entry()
            if on_read is not None:
                on_read(done + 1, len(to_read))
        if worth_it:
            index.save(self.root, entries | fresh)
        problems.sort(key=lambda problem: problem.path)
        return Scan(records=Records(made, entries=entries, root=self.root), problems=tuple(problems), newer=newer)

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

    def _listed(self) -> tuple[dict[str, str], list[Problem]]:
        """Return what the files of records look like, by the name of their folder, and those that cannot be seen."""
        listed: dict[str, str] = {}
        problems: list[Problem] = []
        try:
            names = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            names = []
        except OSError as error:
            raise StoreError(f"cannot read {self.root}: {error.strerror}; make the folder readable") from error
        for name in names:
            if name.startswith("."):  # what claims and removed runs leave
                continue
            path = Path(f"{self.root}/{name}/record.json")
            try:
                listed[name] = index.stamp_of(path.stat())
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(Problem(path=path, reason=str(error)))
        return listed, problems

    def _set_aside_if_corrupt(self, path: Path, id: str) -> None:
        try:
            _read(path, id)
        except NewerRecordError as error:
            raise StoreError(f"{error}; it is left as it is") from error
        except RecordError:
            number = 1
            while (kept := path.with_name(f"record.corrupt-{number}.json")).exists():
                number += 1
            path.rename(kept)
        except OSError:
            return  # unreadable here means that the write itself will say what is wrong


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A record, its parsed text, and what its file looked like when that was read."""

    record: Record
    data: Mapping[str, Any]
    status: os.stat_result

    def entry(self) -> index.Entry:
        return index.Entry.of(self.data, stamp=index.stamp_of(self.status))


def _read(path: Path, id: str) -> _Found:
    try:
        with path.open(encoding="utf-8") as file:
            # before the text: whatever is changed after it looks otherwise
            status = os.fstat(file.fileno())
            data = parse(file.read())
        record = Record.from_parsed(data)
    except NewerRecordError as error:
        raise NewerRecordError(f"{path}: {error}") from error
    except (RecordError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is corrupt: {error}") from error
    if record.id != id:
        raise RecordError(f"{path} is corrupt: it is the record of run {record.id}")
    return _Found(record=record, data=data, status=status)
