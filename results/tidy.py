"""Tables for programs: long lines for CSV and a document for JSON. Metrics are fractions, nothing is rounded.

`mean_low` and `mean_high` are the 95 % interval of the mean over repeats; `interval` belongs to the paper's number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from results.entry import Entry, Row
from results.rollup import Table

_MEASURES = ("state", "mean", "std", "n", "expected", "running", "mark", "paper", "difference", "interval", "verdict")


def as_lines(table: Table) -> list[dict[str, Any]]:
    """Return one flat mapping per entry and average: labels, measures, facts of the row. None where there is nothing.

    `kind` is `entry` or `average`; an average has no label on the axes it runs over, but `complete` of `of` entries.
    """
    return [
        {
            "table": table.spec.name,
            "metric": _metric(table, row, labels),
            "kind": "entry" if entry.coverage is None else "average",
            **dict(zip(table.spec.rows, row.labels, strict=True)),
            **{axis: labels.get(axis) for axis in table.spec.columns},
            **_measures(entry),
            "complete": entry.coverage and entry.coverage[0],
            "of": entry.coverage and entry.coverage[1],
            **_common(entry),
            **_facts(row),
            "devices": "; ".join(row.facts.devices) or None,
            "reasons": "; ".join(entry.reasons) or None,
        }
        for row in table.rows
        for labels, entry in _places(table, row)
    ]


def as_document(table: Table) -> dict[str, Any]:
    """Return the whole table as plain data, ready for JSON."""
    spec = table.spec
    return {
        "name": spec.name,
        "title": spec.title,
        "note": spec.note,
        "metric": spec.metric,
        "unit": "fraction",
        "coverage": {
            "completed": table.completed,
            "total": table.total,
            "running": table.running,
            "by_state": dict(table.counts),
        },
        "repeats": {axis: list(spec.axes[axis]) for axis in spec.repeat},
        "paper": spec.paper and {"file": spec.paper.file, "where": dict(spec.paper.where), "of": spec.paper.of},
        "restricted": {axis: list(labels) for axis, labels in spec.restricted.items()},
        "verdicts": dict(table.verdicts),
        "footnotes": list(table.footnotes),
        "rows": [_row(table, row) for row in table.rows],
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    places = list(_places(table, row))
    return {
        "labels": dict(zip(table.spec.rows, row.labels, strict=True)),
        "reference": row.reference,
        "footnotes": list(row.footnotes),
        "facts": {**_facts(row), "devices": list(row.facts.devices)},
        "entries": [
            {"columns": labels, "metric": _metric(table, row, labels), **_entry(entry)}
            for labels, entry in places
            if entry.coverage is None
        ],
        "averages": [
            {
                "columns": labels,
                "metric": _metric(table, row, labels),
                **_entry(entry),
                "coverage": {"complete": entry.coverage[0], "of": entry.coverage[1]},
            }
            for labels, entry in places
            if entry.coverage is not None
        ],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        **_measures(entry),
        "common": _common(entry) if entry.common is not None else None,
        "values": dict(entry.values),
        "reasons": list(entry.reasons),
        "footnotes": list(entry.footnotes),
    }


def _measures(entry: Entry) -> dict[str, Any]:
    measures = {}
    for name in _MEASURES:
        measures[name] = getattr(entry, name)
        if name == "n":
            interval = entry.mean_interval
            measures |= {"mean_low": interval and interval.low, "mean_high": interval and interval.high}
    return measures


def _common(entry: Entry) -> dict[str, Any]:
    common = entry.common
    return {
        "common_n": common and common.n,
        "common_mean": common and common.ours,
        "common_paper": common and common.paper,
        "common_difference": common and common.difference,
    }


def _facts(row: Row) -> dict[str, Any]:
    facts = row.facts
    return {
        "adapter_parameters": facts.adapter_parameters,
        "head_parameters": facts.head_parameters,
        "budget_parameters": facts.budget_parameters,
        "trainable_percent": facts.trainable_percent,
        "peak_memory_bytes": facts.peak_memory_bytes,
        "step_time_s": facts.step_time_s,
        "memory_of_whole_process": facts.whole_process if facts.peak_memory_bytes is not None else None,
    }


def _metric(table: Table, row: Row, columns: Mapping[str, str]) -> str:
    return table.spec.metric_at({**dict(zip(table.spec.rows, row.labels, strict=True)), **columns})


def _places(table: Table, row: Row) -> Iterator[tuple[dict[str, str], Entry]]:
    spec = table.spec
    for labels, entry in zip(table.columns, row.entries, strict=True):
        yield dict(zip(spec.columns, labels, strict=True)), entry
    kept = [axis for axis in spec.columns if axis not in spec.average]
    for labels, entry in zip(table.average_columns, row.averages, strict=True):
        yield dict(zip(kept, labels, strict=True)), entry
