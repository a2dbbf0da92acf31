"""Records by run id, of which each is made when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from results.index import Entry, key_text
from results.record import Key, Record, Status


class Records(Mapping[str, Record]):
    """Records by run id: those that were just read, and those that an index tells of.

    Args:
        made: records at hand, by id.
        entries: what an index tells of others, by id.
        root: the folder that these others are in.
    """

    def __init__(
        self, made: Mapping[str, Record], *, entries: Mapping[str, Entry] | None = None, root: Path | None = None
    ) -> None:
        self._made = dict(made)
        self._entries = entries or {}
        self._root = root or Path()
        self._ids = sorted({*made, *self._entries})

    @classmethod
    def of(cls, records: Mapping[str, Record]) -> Records:
        """Return records as an object of this class."""
        return records if isinstance(records, Records) else cls(records)

    def __getitem__(self, id: str) -> Record:
        if id not in self._made:
            self._made[id] = self._entries[id].record(self._root / id / "record.json", id)
        return self._made[id]

    def __contains__(self, id: object) -> bool:
        return id in self._made or id in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def ids_of(self, key: Key) -> Sequence[str]:
        """Return the ids of the records with this key."""
        return self._by_key.get(key_text(key), ())

    def with_status(self, status: Status) -> tuple[str, ...]:
        """Return the ids of the records with this status."""
        return tuple(id for id in self._ids if self._status(id) == status)

    def _status(self, id: str) -> str:
        return self._entries[id].status if id in self._entries else self._made[id].status

    @cached_property
    def _by_key(self) -> Mapping[str, list[str]]:
        ids: dict[str, list[str]] = {}
        for id in self._ids:
            text = self._entries[id].key if id in self._entries else key_text(self._made[id].key)
            ids.setdefault(text, []).append(id)
        return ids
