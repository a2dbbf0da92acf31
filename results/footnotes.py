"""Numbered footnotes of a table: each text once, at the widest place it holds for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from results.record import Record
from results.table import TableSpec, matches


class Footnotes:
    """Collects footnote texts and numbers them from 1 in the order in which they are first met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts; the first is footnote 1."""
        return tuple(self._numbers)

    def add(self, texts: Iterable[str]) -> tuple[int, ...]:
        """Return the numbers of `texts` without repeats, new ones for new texts."""
        found = {self._numbers.setdefault(" ".join(text.split()), len(self._numbers) + 1) for text in texts}
        return tuple(sorted(found))

    def stated(
        self, spec: TableSpec, axes: Sequence[str], labels: Sequence[str], *, on_average: bool = False
    ) -> tuple[int, ...]:
        """Number the footnotes of a table file that belong to a place: a row, a column, an entry or an average.

        `axes` are all axes of the place, `labels` its labels on them. A footnote of a cell belongs to the widest place
        that it names the axes of: one on row axes alone to rows, one on column axes alone to columns, else to entries.
        """
        place = dict(zip(axes, labels, strict=True))
        return self.add(
            note.text
            for note in spec.footnotes
            if note.on_average == on_average
            and (on_average or _kind(spec, note.where) == _kind(spec, place))
            and matches(note.where, place)
        )

    def place_notes(self, entries: Sequence[Sequence[Record]]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Number the notes of a row's records, given by entry: those of the whole row, then those of each entry.

        A note that every entry with a completed run has belongs to the row, any other to its entries.
        """
        notes = [list(dict.fromkeys(note for record in records for note in _notes(record))) for records in entries]
        complete = [
            found
            for found, records in zip(notes, entries, strict=True)
            if any(record.status == "ok" for record in records)
        ]
        common = [note for note in complete[0] if all(note in found for found in complete)] if complete else []
        of_row = self.add(common)
        return of_row, tuple(self.add(note for note in found if note not in common) for found in notes)


def _kind(spec: TableSpec, axes: Iterable[str]) -> tuple[bool, bool]:
    named = set(axes)
    return bool(named & set(spec.rows)), bool(named & set(spec.columns))


def _notes(record: Record) -> tuple[str, ...]:
    budget = record.parameters.budget_note if record.parameters is not None else None
    return ((budget,) if budget else ()) + record.notes
