"""What belongs above and under a table: what its numbers are, what its marks mean, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping

from results.entry import Entry, State
from results.metric_names import spoken
from results.rollup import Table
from results.sheet import Markup, shown_facts


def caption(table: Table, markup: Markup) -> str:
    """Return the sentence that says what the numbers are."""
    spec = table.spec
    repeats = [f"{axis} {', '.join(spec.axes[axis])}" for axis in spec.repeat if len(spec.axes[axis]) > 1]
    spread = f", mean {markup.plus_minus} {_spread(table, markup)} over " if repeats else ""
    share = f" of {' / '.join(spec.relative.values())}" if spec.relative else ""
    text = f"{markup.escape(spoken(spec.metric_at({})))} in {markup.escape('%' + share)}"
    text += f"{spread}{markup.escape(' and '.join(repeats))}."
    if spec.average:
        text += f" Averages over {markup.escape(' and '.join(spec.average))} are unweighted."
    for axis, labels in spec.restricted.items():
        text += f" Only {markup.escape(axis)} {markup.escape(', '.join(labels))}."
    return text


def _spread(table: Table, markup: Markup) -> str:
    if markup.spread == "std":
        return "sample standard deviation"
    n = len(table.spec.points(table.spec.repeat))
    return f"half the 95 {markup.escape('%')} interval of the mean (Student's t, n = {n})"


def footnotes(table: Table, markup: Markup) -> tuple[str, ...]:
    """Return the numbered footnotes."""
    return tuple(
        f"{markup.raised(str(number)).strip()} {markup.escape(text)}" for number, text in enumerate(table.footnotes, 1)
    )


def legend(table: Table, markup: Markup) -> tuple[str, ...]:
    """Return what the marks of the table mean, and its coverage."""
    entries = [entry for row in table.rows for entry in (*row.entries, *row.averages)]
    holes = {entry.state for entry in entries if entry.mean is None}
    named = [f"{markup.holes[state]} {meaning}" for state, meaning in _HOLES.items() if state in holes]
    parts = ["; ".join(named) + "."] if named else []
    if "paper" in holes:
        parts.append("A bracket alone: there is nothing of ours to run.")
    open_averages = [entry for entry in entries if entry.coverage and entry.coverage[0] and entry.mean is None]
    if open_averages:
        counted = any(entry.common is None for entry in open_averages)
        meaning = "; (k of n): how many of its entries are complete" if counted else ""
        parts.append(f"An average over a hole is a hole{meaning}.")
    if any(entry.state == "partial" for entry in entries):
        parts.append("(k/n): only k of n repeats are done.")
    if any(entry.mark for entry in entries):
        parts.append(_bold(table, markup))
    parts += _paper(table, entries, markup)
    if {"adapter_parameters", "head_parameters"} & set(shown_facts(table)):
        reached = ", the first within the budget asked for" if "budget" in shown_facts(table) else ""
        parts.append(f"Adapter and head: trainable parameters{reached}.")
    if "trainable_percent" in shown_facts(table):
        parts.append("Trainable: the adapter's parameters, in percent of all with them.")
    parts += _measurement(table, markup)
    parts.append(_coverage(table))
    return (*parts, *_against_paper(table))


def _bold(table: Table, markup: Markup) -> str:
    spec = table.spec
    if spec.layout == "blocks":
        scope = f"{markup.escape(spec.rows[-1])} of each place"
    else:
        scope = "of a column" if len(spec.rows) == 1 else "of a column in each block"
    text = f"{markup.bold('Bold')}: the best {scope}, with those within one pooled standard deviation of it"
    references = markup.escape(", ".join(spec.references))
    return text + (f" ({references} left out)." if references else ".")


def _paper(table: Table, entries: list[Entry], markup: Markup) -> list[str]:
    if not any(entry.paper is not None for entry in entries):
        return []
    parts = ["In brackets: the paper's number, and ours minus the paper's."]
    if table.spec.paper is not None and table.spec.paper.of == "cells" and table.spec.average:
        parts[0] += " Its averages are those of its entries here."
    if any(entry.common for entry in entries):
        parts.append("d over k of n: that difference of averages over the k entries that both have.")
    found = {entry.verdict for entry in entries}
    if found & {"reproduced", "outside"}:
        marks = markup.verdicts
        parts.append(
            f"{marks['reproduced']} reproduced: the difference lies within t s sqrt(1 + 1/n), the 95 "
            f"{markup.escape('%')} prediction interval of one more run from the spread s of our n seeds (t: Student's "
            f"quantile), plus the paper's rounding; {marks['outside']} outside of it."
        )
    if "no spread" in found:
        parts.append("A difference without mark is of a single seed: there is no spread to judge it by.")
    return parts


def _measurement(table: Table, markup: Markup) -> list[str]:
    asked = [fact for fact in ("peak_memory", "step_time") if fact in shown_facts(table)]
    rows = [row for row in table.rows if row.facts.devices]
    if not asked or not rows:
        return []
    parts = []
    devices = sorted({device for row in rows for device in row.facts.devices})
    if "peak_memory" in asked:
        whole = {row.facts.whole_process for row in rows if row.facts.peak_memory_bytes is not None}
        meanings = [_MEMORY[each] for each in (False, True) if each in whole]
        parts += [f"Peak memory: {' or '.join(meanings)}."] if meanings else []
    if "step_time" in asked:
        parts.append("Step: median time of a training step.")
    if len(devices) == 1:
        parts.append(markup.escape(f"Measured on {devices[0]}."))
        return [" ".join(parts)]
    for row in rows:
        several = "; no common median" if len(row.facts.devices) > 1 else ""
        parts.append(markup.escape(f"{' / '.join(row.labels)}: measured on {', '.join(row.facts.devices)}{several}."))
    return parts


def _coverage(table: Table) -> str:
    text = f"{table.completed} of {table.total} runs complete"
    rest = [f"{count} {state}" for state, count in table.counts.items() if count and state != "ok"]
    if table.running:
        rest.append(f"{table.running} running now")
    return f"{text}; {', '.join(rest)}." if rest else f"{text}."


def _against_paper(table: Table) -> list[str]:
    counts = table.verdicts
    total = sum(counts.values())
    if not total:
        return []
    named = ", ".join(f"{counts[verdict]} {verdict}" for verdict in counts)
    kind = "averages" if table.spec.paper is not None and table.spec.paper.of == "averages" else "numbers"
    return [f"Against the paper's {total} {kind}: {named}."]


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
