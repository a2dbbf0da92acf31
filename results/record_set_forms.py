"""Two record sets side by side as text, Markdown, CSV and JSON. People read points, programs fractions."""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from results.differences_forms import interval_text, p_text
from results.record_sets import STATES, MatchedRun, MetricPair, OriginField, RecordSets
from results.statistics import SIGNIFICANCE
from results.units import percent, signed_percent

Show = Literal["differing", "all"]
_VALUES = 3  # that a cell lists


def page(found: RecordSets, *, names: tuple[str, str], show: Show, markup: bool) -> str:
    """Return the comparison for people, as Markdown where `markup`, else for a terminal."""
    form = "pipe" if markup else "simple"
    parts = [("  \n" if markup else "\n").join(_head(found, names))]
    for title, fields in (("Where the runs come from", found.origin), ("Config of runs matched by key", found.config)):
        if fields:
            parts += [_heading(title, markup), _fields(fields, len(found.matched), form)]
    lines = [_run_line(run, pair) for run in found.matched for pair in run.metrics if _shown(run, pair, show)]
    if lines:
        title = "Matched runs" if show == "all" else "Matched runs that differ"
        parts += [_heading(title, markup), _table(lines, form, left=5)]
    if found.summaries:
        parts += [_heading("B minus A over the matched runs", markup), _summary(found, form)]
    parts += ["\n".join(_legend(found))]
    return "\n\n".join(parts) + "\n"


def csv(found: RecordSets) -> str:
    """Return one line per metric of each matched run, and one per run of one side alone; full precision."""
    lines = [_line(run, pair) for run in found.matched for pair in (*run.metrics, *([None] if not run.metrics else []))]
    names = list(lines[0]) if lines else []
    stream = io.StringIO()
    writer = csv_module.DictWriter(stream, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def json(found: RecordSets, *, names: tuple[str, str]) -> str:
    """Return everything in full precision; what does not exist is null."""
    document = {
        "a": names[0],
        "b": names[1],
        "unit": "fraction",
        "counts": dict(found.counts),
        "correction": {"method": "Holm", "family": found.family},
        "origin": [asdict(field) for field in found.origin],
        "config": [asdict(field) for field in found.config],
        "summaries": [asdict(each) for each in found.summaries],
        "matched": [_line(run, pair) for run in found.matched for pair in run.metrics or (None,)],
        "only_a": [record.id for record in found.only_a],
        "only_b": [record.id for record in found.only_b],
    }
    return json_module.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _head(found: RecordSets, names: tuple[str, str]) -> list[str]:
    by = Counter(run.by for run in found.matched)
    lines = [
        f"A: {names[0]}, {len(found.matched) + len(found.only_a)} records",
        f"B: {names[1]}, {len(found.matched) + len(found.only_b)} records",
        f"Matched: {by['id']} by id, {by['key']} by key under another config. "
        f"Only in A: {len(found.only_a)}. Only in B: {len(found.only_b)}.",
    ]
    return lines + [f"{count} {state}: {STATES[state]}." for state, count in found.counts.items() if count]


def _heading(text: str, markup: bool) -> str:
    return f"#### {text}" if markup else f"{text}:"


def _fields(fields: Sequence[OriginField], total: int, form: str) -> str:
    lines = [
        {"": field.name, "A": _values(field.a), "B": _values(field.b), "runs": f"{field.differing} of {total}"}
        for field in fields
    ]
    return _table(lines, form, left=3)


def _values(counts: Mapping[str, int]) -> str:
    shown = [value for value, _ in Counter(counts).most_common(_VALUES)]
    more = f", {len(counts) - _VALUES} more" if len(counts) > _VALUES else ""
    return ", ".join(shown) + more


def _shown(run: MatchedRun, pair: MetricPair, show: Show) -> bool:
    return show == "all" or run.state == "other predictions" or pair.a != pair.b


def _run_line(run: MatchedRun, pair: MetricPair) -> dict[str, str]:
    key = run.a.key
    return {
        "run": run.a.id if run.by == "id" else f"{run.a.id} / {run.b.id}",
        "method": key.method,
        "backbone": key.backbone,
        "dataset": key.dataset,
        "metric": pair.metric,
        "seed": str(key.seed),
        "A": percent(pair.a, 2),
        "B": percent(pair.b, 2),
        "B − A": signed_percent(pair.difference, 2, minus="−"),
        "A alone": "–" if pair.a_alone is None else str(pair.a_alone),
        "B alone": "–" if pair.b_alone is None else str(pair.b_alone),
        "p": p_text(pair.p),
        "corrected": p_text(pair.p_corrected),
    }


def _summary(found: RecordSets, form: str) -> str:
    lines = [
        {
            "metric": each.metric,
            "runs": str(each.runs),
            "mean": signed_percent(each.mean, 2, minus="−"),
            "95 % interval": interval_text(each.interval, digits=2),
            "p over runs": p_text(each.p),
        }
        for each in found.summaries
    ]
    return _table(lines, form, left=1)


def _table(lines: Sequence[Mapping[str, str]], form: str, *, left: int) -> str:
    from tabulate import tabulate

    header = list(lines[0])
    alignment = ["left"] * left + ["right"] * (len(header) - left)
    rows = [list(line.values()) for line in lines]
    return tabulate(rows, header, tablefmt=form, colalign=alignment, disable_numparse=True)


def _legend(found: RecordSets) -> list[str]:
    lines = []
    if found.summaries:
        lines.append("Numbers are in points of 100. p over runs: exact sign-flip test of the runs' differences.")
    if found.family:
        told = sum((pair.p_corrected or 1.0) < SIGNIFICANCE for run in found.matched for pair in run.metrics if pair.p)
        lines.append(
            "A alone, B alone: test samples that one side alone gets right; p: McNemar's exact test. "
            f"Corrected: Holm over {found.family} tests; {told} below {SIGNIFICANCE:.2g}."
        )
    reasons = Counter(pair.no_samples for run in found.matched for pair in run.metrics if pair.no_samples is not None)
    lines += [f"No test over samples for {count}: {reason}." for reason, count in reasons.items()]
    if any("predictions.parquet" in reason for reason in reasons):
        lines.append("randlora publish copies records without predictions; the runs themselves keep them.")
    failed = [(side, record) for run in found.matched for side, record in (("A", run.a), ("B", run.b))]
    lines += [f"{side} {record.id}: {record.status}: {record.reason}" for side, record in failed if record.reason]
    return lines or ["No run is in both."]


def _line(run: MatchedRun, pair: MetricPair | None) -> dict[str, Any]:
    key = run.a.key
    metric = MetricPair(metric="", a=0.0, b=0.0) if pair is None else pair
    absent = pair is None
    return {
        "id_a": run.a.id,
        "id_b": run.b.id,
        "by": run.by,
        "state": run.state,
        **asdict(key),
        "metric": None if absent else metric.metric,
        "a": None if absent else metric.a,
        "b": None if absent else metric.b,
        "difference": None if absent else metric.difference,
        "samples": metric.samples,
        "a_alone": metric.a_alone,
        "b_alone": metric.b_alone,
        "p": metric.p,
        "p_corrected": metric.p_corrected,
        "no_samples": metric.no_samples,
    }
