"""A table as text in some markup: a grid of lines, or an overview and a grid per block, and what belongs under them.

Markdown and LaTeX differ only in their `Markup`; what is said, and in which order, is decided here and in
`results/legend.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from results.entry import Entry, Row, State
from results.facts import Facts, common_facts
from results.rollup import Table
from results.units import duration, percent, quantity, signed_percent, size
from results.verdict import Verdict

SIDE_BY_SIDE = 6
"""Columns of a block that a terminal has room for."""


Spread = Literal["std", "interval"]
SPREADS: tuple[Spread, ...] = ("std", "interval")


@dataclass(frozen=True, kw_only=True)
class Markup:
    """How a format writes text, emphasis, footnote numbers, the marks of holes and those of verdicts.

    `spread` is what stands behind a mean: the sample standard deviation, or the 95 % interval of the mean.
    """

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    raised: Callable[[str], str]
    plus_minus: str
    minus: str
    holes: Mapping[State, str]
    verdicts: Mapping[Verdict, str]
    spread: Spread = "std"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Finished text. `labels` is how many leading columns hold labels; `blocks` the lines that start a block."""

    title: str | None
    header: tuple[str, ...]
    labels: int
    lines: tuple[tuple[str, ...], ...]
    blocks: frozenset[int]


def lay_out(table: Table, markup: Markup) -> tuple[Grid, ...]:
    """Return the grids of `table` in `markup`: one, or with `layout: blocks` an overview and one per block."""
    if table.spec.layout == "rows":
        return (_whole(table, markup),)
    blocks = _blocks(table)
    overview = _overview(table, blocks, markup)
    if not table.columns:
        return (overview,)
    return (overview, *(grid for labels, rows in blocks.items() for grid in _transposed(table, labels, rows, markup)))


def shown_facts(table: Table) -> tuple[str, ...]:
    """Return the extra columns that some row has something to say in."""
    return tuple(fact for fact in table.spec.facts if any(_FACTS[fact][1](row.facts) for row in table.rows))


def _whole(table: Table, markup: Markup) -> Grid:
    spec, facts = table.spec, shown_facts(table)
    header = [markup.escape(_heading(axis)) for axis in spec.rows]
    header += _column_headings(table, markup)
    header += [markup.escape(" · ".join((*labels, "Average"))) for labels in table.average_columns]
    header += [markup.escape(_FACTS[fact][0]) for fact in facts]
    lines, blocks = [], set()
    previous: tuple[str, ...] = ()
    for index, row in enumerate(table.rows):
        if row.labels[:-1] != previous[:-1]:
            blocks.add(index)
        # A label is written once per block; the last, which is what the rows compare, on every line.
        labels = [
            "" if row.labels[: depth + 1] == previous[: depth + 1] else markup.escape(label)
            for depth, label in enumerate(row.labels)
        ]
        labels[-1] += _notes(row.footnotes, markup)
        entries = [_entry(table, entry, markup) for entry in (*row.entries, *row.averages)]
        lines.append((*labels, *entries, *_fact_texts(row.facts, facts, markup)))
        previous = row.labels
    return Grid(title=None, header=tuple(header), labels=len(spec.rows), lines=tuple(lines), blocks=frozenset(blocks))


def _blocks(table: Table) -> dict[tuple[str, ...], list[Row]]:
    return {labels: list(rows) for labels, rows in itertools.groupby(table.rows, key=lambda each: each.labels[:-1])}


def _overview(table: Table, blocks: Mapping[tuple[str, ...], Sequence[Row]], markup: Markup) -> Grid:
    """The averages: a line per label that is compared, a column per block."""
    spec, facts = table.spec, shown_facts(table)
    header = [_heading(spec.rows[-1])]
    header += [" · ".join((*block, *labels)) for block in blocks for labels in table.average_columns]
    lines = []
    for rows in zip(*blocks.values(), strict=True):
        of_line = [number for number in rows[0].footnotes if all(number in row.footnotes for row in rows)]
        entries = [
            _entry(table, entry, markup, more=[number for number in row.footnotes if number not in of_line])
            for row in rows
            for entry in row.averages
        ]
        label = markup.escape(rows[0].labels[-1]) + _notes(of_line, markup)
        lines.append((label, *entries, *_fact_texts(common_facts([row.facts for row in rows]), facts, markup)))
    over = markup.escape(f"Averages over {' and '.join(spec.average)}")
    headings = tuple(markup.escape(text) for text in (*header, *(_FACTS[fact][0] for fact in facts)))
    return Grid(title=over, header=headings, labels=1, lines=tuple(lines), blocks=frozenset({0}))


def _transposed(table: Table, labels: Sequence[str], rows: Sequence[Row], markup: Markup) -> Iterator[Grid]:
    """One block: a line per column of the table and per average, a column per row, a few rows side by side."""
    title = markup.escape(" · ".join(labels))
    grids = math.ceil(len(rows) / SIDE_BY_SIDE)
    across = math.ceil(len(rows) / grids)
    for index in range(grids):
        part = rows[index * across : (index + 1) * across]
        header = [markup.escape(" · ".join(map(_heading, table.spec.columns)))]
        header += [markup.escape(row.labels[-1]) + _notes(row.footnotes, markup) for row in part]
        lines = [
            (heading, *(_entry(table, row.entries[place], markup) for row in part))
            for place, heading in enumerate(_column_headings(table, markup))
        ]
        averages = [
            (
                markup.escape(" · ".join((*kept, "Average"))),
                *(_entry(table, row.averages[place], markup) for row in part),
            )
            for place, kept in enumerate(table.average_columns)
        ]
        yield Grid(
            title=title if grids == 1 else f"{title} ({index + 1} of {grids})",
            header=tuple(header),
            labels=1,
            lines=(*lines, *averages),
            blocks=frozenset({0, len(lines)}),
        )


def _column_headings(table: Table, markup: Markup) -> list[str]:
    return [
        markup.escape(" · ".join(labels)) + _notes(numbers, markup)
        for labels, numbers in zip(table.columns, table.column_notes, strict=True)
    ]


def _entry(table: Table, entry: Entry, markup: Markup, *, more: Sequence[int] = ()) -> str:
    digits = _digits(table)
    if entry.mean is None:
        text = markup.holes[entry.state]
        if entry.coverage is not None and entry.coverage[0] and entry.common is None:
            text += f" ({entry.coverage[0]} of {entry.coverage[1]})"
    else:
        text = percent(entry.mean, digits)
        interval = entry.mean_interval if markup.spread == "interval" else None
        if interval is not None:
            text += f" {markup.plus_minus} {percent((interval.high - interval.low) / 2, digits)}"
        elif entry.std is not None:
            text += f" {markup.plus_minus} {percent(entry.std, digits)}"
        if entry.mark is not None:
            text = markup.bold(text)
        if entry.state == "partial":
            text += f" ({entry.n}/{entry.expected})"
    beside = _beside(entry, digits, markup)
    return text + (f" [{beside}]" if beside else "") + _notes(sorted({*entry.footnotes, *more}), markup)


def _beside(entry: Entry, digits: int, markup: Markup) -> str:
    """The paper's number, and where it can be compared the difference and the verdict."""
    parts = [] if entry.paper is None else [percent(entry.paper, digits)]
    if entry.difference is not None:
        mark = markup.verdicts.get(entry.verdict, "") if entry.verdict is not None else ""
        parts.append(signed_percent(entry.difference, digits, minus=markup.minus) + (f" {mark}" if mark else ""))
    if entry.common is not None and entry.coverage is not None:
        shown = signed_percent(entry.common.difference, digits, minus=markup.minus)
        parts.append(f"{shown} over {entry.common.n} of {entry.coverage[1]}")
    return ", ".join(parts)


def _digits(table: Table) -> int:
    """How many decimals are shown: those of the paper's numbers, at least one."""
    return max(1, table.spec.paper.digits if table.spec.paper is not None else 1)


def _fact_texts(facts: Facts, asked: Sequence[str], markup: Markup) -> tuple[str, ...]:
    return tuple(markup.escape(_FACTS[fact][1](facts)) for fact in asked)


def _shown(value: int | None, form: Callable[[int], str]) -> str:
    return "" if value is None else form(value)


def _notes(numbers: Sequence[int], markup: Markup) -> str:
    return markup.raised(",".join(map(str, numbers))) if numbers else ""


def _heading(axis: str) -> str:
    return axis[:1].upper() + axis[1:]


_FACTS: Mapping[str, tuple[str, Callable[[Facts], str]]] = {
    "adapter_parameters": ("Adapter", lambda facts: _shown(facts.adapter_parameters, quantity)),
    "budget": ("Budget", lambda facts: _shown(facts.budget_parameters, quantity)),
    "head_parameters": ("Head", lambda facts: _shown(facts.head_parameters, quantity)),
    "peak_memory": ("Peak memory", lambda facts: _shown(facts.peak_memory_bytes, size)),
    "step_time": ("Step", lambda facts: "" if facts.step_time_s is None else duration(facts.step_time_s)),
    "trainable_percent": (
        "Trainable",
        lambda facts: "" if facts.trainable_percent is None else f"{facts.trainable_percent:.3g} %",
    ),
}
