"""Which rows of a column are the best, and which cannot be told from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from results.entry import Entry, Row

Mark = Literal["best", "tied"]


def mark_best(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Mark in every column the best row of each block, and the rows tied with it.

    A block is the rows that share all labels but the last. A row is tied when its mean lies within one pooled standard
    deviation, sqrt((s1^2 + s2^2) / 2), of the best; without standard deviations only equal means are. Reference rows
    take no part. Nothing is marked while a run is still to come, or where fewer than two rows are complete.
    """
    marked: list[Row] = []
    for _, group in itertools.groupby(rows, key=lambda row: row.labels[:-1]):
        block = list(group)
        entries, averages = [list(row.entries) for row in block], [list(row.averages) for row in block]
        contenders = [index for index, row in enumerate(block) if not row.reference]
        for column in range(len(entries[0])):
            if all(_is_final(entries[index][column]) for index in contenders):
                _mark_column(entries, column, contenders)
        if all(_is_final(entry) for index in contenders for entry in entries[index]):
            for column in range(len(averages[0])):
                _mark_column(averages, column, contenders)
        marked += [
            replace(row, entries=tuple(own), averages=tuple(means))
            for row, own, means in zip(block, entries, averages, strict=True)
        ]
    return tuple(marked)


def _mark_column(lines: list[list[Entry]], column: int, contenders: Sequence[int]) -> None:
    complete = {index: lines[index][column] for index in contenders if lines[index][column].state == "ok"}
    if len(complete) < 2:
        return
    best = max(complete, key=lambda index: _mean(complete[index]))
    for index, entry in complete.items():
        if index == best:
            lines[index][column] = replace(entry, mark="best")
        elif _tied(entry, complete[best]):
            lines[index][column] = replace(entry, mark="tied")


def _is_final(entry: Entry) -> bool:
    return entry.state in ("ok", "failed", "skipped", "paper")


def _tied(entry: Entry, best: Entry) -> bool:
    noise = 0.0 if entry.std is None or best.std is None else math.sqrt((entry.std**2 + best.std**2) / 2)
    return _mean(best) - _mean(entry) <= noise


def _mean(entry: Entry) -> float:
    if entry.mean is None:
        raise ValueError("an entry that is ok has a mean")
    return entry.mean
