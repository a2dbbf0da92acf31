"""A table as text in some markup: the header, the lines and everything that belongs under them.

Markdown and LaTeX differ only in their `Markup`; what is said, and in which order, is decided here once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from results.facts import Facts
from results.rollup import Entry, Row, State, Table


@dataclass(frozen=True, kw_only=True)
class Markup:
    """How a format writes text, emphasis, footnote numbers and the marks of holes."""

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    raised: Callable[[str], str]
    plus_minus: str
    minus: str
    holes: Mapping[State, str]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Finished text. `labels` is how many leading columns hold row labels; `blocks` the lines that start a block."""

    header: tuple[str, ...]
    labels: int
    lines: tuple[tuple[str, ...], ...]
    blocks: frozenset[int]
    caption: str
    legend: tuple[str, ...]
    footnotes: tuple[str, ...]


def lay_out(table: Table, markup: Markup) -> Sheet:
    """Return `table` as text in `markup`."""
    spec = table.spec
    header = [*map(_heading, spec.rows), *map(" · ".join, table.columns)]
    header += [" · ".join((*labels, "Average")) for labels in table.average_columns]
    header += [_FACTS[fact][0] for fact in _facts(table)]
    lines, blocks = [], set()
    previous: tuple[str, ...] = ()
    for index, row in enumerate(table.rows):
        if row.labels[:-1] != previous[:-1]:
            blocks.add(index)
        lines.append(_line(table, row, previous, markup))
        previous = row.labels
    return Sheet(
        header=tuple(map(markup.escape, header)),
        labels=len(spec.rows),
        lines=tuple(lines),
        blocks=frozenset(blocks),
        caption=_caption(table, markup),
        legend=tuple(_legend(table, markup)),
        footnotes=tuple(
            f"{markup.raised(str(number)).strip()} {markup.escape(text)}"
            for number, text in enumerate(table.footnotes, 1)
        ),
    )


def quantity(count: int) -> str:
    """Return a number of parameters for people: 940, 47.3 k, 3.01 M."""
    if count < 1000:
        return str(count)
    scaled, unit = (count / 1e3, "k") if count < 999_950 else (count / 1e6, "M")
    digits = 2 if unit == "M" and scaled < 9.995 else 1
    return f"{scaled:.{digits}f} {unit}"


def size(count: int) -> str:
    """Return a number of bytes for people: 12.5 MiB, 640 MiB, 1.25 GiB."""
    mebibytes = count / 2**20
    if mebibytes >= 1023.5:
        return f"{mebibytes / 1024:.2f} GiB"
    return f"{mebibytes:.0f} MiB" if mebibytes >= 99.95 else f"{mebibytes:.1f} MiB"


def duration(seconds: float) -> str:
    """Return a step time for people: 1.24 ms, 12.4 ms, 1240 ms."""
    milliseconds = seconds * 1e3
    digits = 2 if milliseconds < 9.995 else 1 if milliseconds < 99.95 else 0
    return f"{milliseconds:.{digits}f} ms"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with one decimal, without its sign."""
    return f"{fraction * 100:.1f}"


def _shown(value: int | None, form: Callable[[int], str]) -> str:
    return "" if value is None else form(value)


_FACTS: Mapping[str, tuple[str, Callable[[Facts], str]]] = {
    "adapter_parameters": ("Adapter", lambda facts: _shown(facts.adapter_parameters, quantity)),
    "budget": ("Budget", lambda facts: _shown(facts.budget_parameters, quantity)),
    "head_parameters": ("Head", lambda facts: _shown(facts.head_parameters, quantity)),
    "peak_memory": ("Peak memory", lambda facts: _shown(facts.peak_memory_bytes, size)),
    "step_time": ("Step", lambda facts: "" if facts.step_time_s is None else duration(facts.step_time_s)),
}


def _facts(table: Table) -> tuple[str, ...]:
    """Return the extra columns; that of the budget only where a row has one."""
    budgeted = any(row.facts.budget_parameters is not None for row in table.rows)
    return tuple(fact for fact in table.spec.facts if fact != "budget" or budgeted)


def _line(table: Table, row: Row, previous: tuple[str, ...], markup: Markup) -> tuple[str, ...]:
    # A label is written once per block; the last, which is what the rows compare, on every line.
    labels = [
        "" if row.labels[: depth + 1] == previous[: depth + 1] else markup.escape(label)
        for depth, label in enumerate(row.labels)
    ]
    labels[-1] += _notes(row.footnotes, markup)
    entries = [_entry(entry, markup) for entry in (*row.entries, *row.averages)]
    return (*labels, *entries, *(_FACTS[fact][1](row.facts) for fact in _facts(table)))


def _entry(entry: Entry, markup: Markup) -> str:
    if entry.mean is None:
        text = markup.holes[entry.state]
        if entry.coverage is not None:
            text += f" ({entry.coverage[0]} of {entry.coverage[1]})"
    else:
        text = percent(entry.mean)
        if entry.std is not None:
            text += f" {markup.plus_minus} {percent(entry.std)}"
        if entry.mark is not None:
            text = markup.bold(text)
        if entry.state == "partial":
            text += f" ({entry.n}/{entry.expected})"
    if entry.paper is not None:
        text += f" [{_beside(entry, markup)}]"
    return text + _notes(entry.footnotes, markup)


def _beside(entry: Entry, markup: Markup) -> str:
    paper = percent(entry.paper or 0.0)
    if entry.difference is None:
        return paper
    shown = percent(abs(entry.difference))
    sign = "" if shown == "0.0" else "+" if entry.difference > 0 else markup.minus
    return f"{paper}, {sign}{shown}"


def _notes(numbers: Sequence[int], markup: Markup) -> str:
    return markup.raised(",".join(map(str, numbers))) if numbers else ""


def _heading(axis: str) -> str:
    return axis[:1].upper() + axis[1:]


def _caption(table: Table, markup: Markup) -> str:
    spec = table.spec
    repeats = [f"{axis} {', '.join(spec.axes[axis])}" for axis in spec.repeat if len(spec.axes[axis]) > 1]
    spread = f", mean {markup.plus_minus} sample standard deviation over " if repeats else ""
    text = f"{markup.escape(spec.metric)} in {markup.escape('%')}{spread}{markup.escape(' and '.join(repeats))}."
    if spec.average:
        text += f" Averages over {markup.escape(' and '.join(spec.average))} are unweighted."
    return text


def _legend(table: Table, markup: Markup) -> list[str]:
    entries = [entry for row in table.rows for entry in (*row.entries, *row.averages)]
    holes = {entry.state for entry in entries if entry.mean is None}
    legend = [f"{markup.holes[state]} {meaning}" for state, meaning in _HOLES.items() if state in holes]
    parts = ["; ".join(legend) + "."] if legend else []
    if any(entry.coverage and entry.mean is None for entry in entries):
        parts.append("An average over a hole is a hole; (k of n): how many of its entries are complete.")
    if any(entry.state == "partial" for entry in entries):
        parts.append("(k/n): only k of n repeats are done.")
    if any(entry.mark for entry in entries):
        parts.append(_bold_legend(table, markup))
    if any(entry.paper is not None for entry in entries):
        parts.append("In brackets: the paper's number, and ours minus the paper's.")
    if {"adapter_parameters", "head_parameters"} & set(table.spec.facts):
        reached = ", the first within the budget asked for" if "budget" in _facts(table) else ""
        parts.append(f"Adapter and head: trainable parameters{reached}.")
    return [*parts, *_measurement_legend(table, markup), _coverage(table)]


def _bold_legend(table: Table, markup: Markup) -> str:
    scope = "column" if len(table.spec.rows) == 1 else "column in each block"
    text = f"{markup.bold('Bold')}: the best of a {scope}, with the rows within one pooled standard deviation of it"
    references = markup.escape(", ".join(table.spec.references))
    return text + (f" ({references} left out)." if references else ".")


def _measurement_legend(table: Table, markup: Markup) -> list[str]:
    asked = [fact for fact in ("peak_memory", "step_time") if fact in table.spec.facts]
    rows = [row for row in table.rows if row.facts.devices]
    if not asked or not rows:
        return []
    legend = []
    devices = sorted({device for row in rows for device in row.facts.devices})
    if "peak_memory" in asked:
        whole = {row.facts.whole_process for row in rows if row.facts.peak_memory_bytes is not None}
        meanings = [_MEMORY[each] for each in (False, True) if each in whole]
        legend += [f"Peak memory: {' or '.join(meanings)}."] if meanings else []
    if "step_time" in asked:
        legend.append("Step: median time of a training step.")
    if len(devices) == 1:
        legend.append(markup.escape(f"Measured on {devices[0]}."))
        return [" ".join(legend)]
    for row in rows:
        several = "; no common median" if len(row.facts.devices) > 1 else ""
        legend.append(markup.escape(f"{' / '.join(row.labels)}: measured on {', '.join(row.facts.devices)}{several}."))
    return legend


def _coverage(table: Table) -> str:
    text = f"{table.completed} of {table.total} runs complete"
    rest = [f"{count} {state}" for state, count in table.counts.items() if count and state != "ok"]
    if table.running:
        rest.append(f"{table.running} running now")
    return f"{text}; {', '.join(rest)}." if rest else f"{text}."


_MEMORY: Mapping[bool, str] = {
    False: "allocated on the device in training (in evaluation, where nothing is trained)",
    True: "of the whole process (CPU)",
}
_HOLES: Mapping[State, str] = {
    "missing": "not yet run",
    "failed": "failed",
    "stale": "stale: run under another config, run it again",
    "skipped": "skipped",
}
