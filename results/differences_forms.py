"""Differences of methods as text, Markdown, CSV and JSON. People read points (hundredths), programs fractions."""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
from collections.abc import Sequence
from typing import Any

from results.comparing import QUESTIONS, Comparison, Part, Question
from results.differences import Differences
from results.metric_names import spoken
from results.power import seeds_text
from results.statistics import SIGNIFICANCE, Interval, smallest_sign_flip_p
from results.units import signed_percent

_ABOUT: dict[Question, str] = {
    "datasets": "other datasets of this kind",
    "seeds": "other seeds on these datasets",
    "samples": "other test samples of these datasets, with these trained models",
}
_TESTS: dict[Question, str] = {
    "datasets": "exact sign-flip test of the datasets' differences",
    "seeds": "Student's test of the differences by seed, pooled over datasets",
    "samples": "McNemar's test; the outcomes of a sample in all seeds are exchanged together",
}


def text(found: Differences) -> str:
    """Return the comparisons for a terminal."""
    return _page(found, tablefmt="simple", title=f"{found.table.spec.title}: differences")


def markdown(found: Differences) -> str:
    """Return the comparisons as GitHub Markdown."""
    return _page(found, tablefmt="pipe", title=f"### {found.table.spec.title}: differences")


def csv(found: Differences) -> str:
    """Return one line per comparison in full precision; what does not exist is empty."""
    lines = [_line(found, each) for each in found.comparisons]
    stream = io.StringIO()
    writer = csv_module.DictWriter(stream, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def json(found: Differences) -> str:
    """Return everything, each column of each comparison included, in full precision; what does not exist is null."""
    spec = found.table.spec
    document = {
        "name": spec.name,
        "title": spec.title,
        "metric": spec.metric,
        "unit": "fraction",
        "reference": found.reference,
        "over": found.over,
        "correction": {"method": "Holm", "family": found.family},
        "datasets": found.datasets,
        "seeds": found.seeds,
        "left_out": list(found.left_out),
        "no_samples": dict(found.reasons),
        "comparisons": [
            {**_line(found, each), "columns": [_part(spec.columns, part) for part in each.parts]}
            for each in found.comparisons
        ],
    }
    return json_module.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _line(found: Differences, each: Comparison) -> dict[str, Any]:
    spec = found.table.spec
    return {
        **dict(zip(spec.rows[:-1], each.block, strict=True)),
        **dict(zip(_kept(found), each.column, strict=True)),
        "first": each.first,
        "second": each.second,
        "complete": each.complete,
        "of": each.of,
        "first_mean": each.first_mean,
        "second_mean": each.second_mean,
        "difference": each.difference,
        "seeds": each.seeds,
        "std_over_seeds": each.seeds_std,
        **{
            name: value
            for question in QUESTIONS
            for name, value in (
                (f"low_{question}", _end(each.intervals[question], "low")),
                (f"high_{question}", _end(each.intervals[question], "high")),
                (f"p_{question}", each.p[question]),
            )
        },
        "over": found.over,
        "p_corrected": each.p_corrected,
        "verdict": each.verdict,
        "seeds_needed": each.seeds_needed,
        "no_samples": each.no_samples,
    }


def _part(axes: Sequence[str], part: Part) -> dict[str, Any]:
    return {
        "column": dict(zip(axes, part.column, strict=True)),
        "first_mean": part.first,
        "second_mean": part.second,
        "difference": part.difference,
        "samples": part.samples,
        "first_alone": part.first_alone,
        "second_alone": part.second_alone,
        "p_samples": part.p_samples,
    }


def _page(found: Differences, *, tablefmt: str, title: str) -> str:
    if not found.comparisons:
        return f"{title}\n\nThere are no two methods to compare.\n"
    parts = [title, _caption(found), _grid(found, tablefmt=tablefmt), "\n".join(_legend(found))]
    return "\n\n".join(parts) + "\n"


def _caption(found: Differences) -> str:
    spec = found.table.spec
    what = f"{spoken(spec.metric_at({}))} in points"
    if spec.average:
        what += f", average over {found.datasets} {' / '.join(spec.average)}s"
    against = "the one it is compared with" if found.reference is None else found.reference
    seeds = f", {found.seeds} seeds" if found.seeds > 1 else ""
    left_out = f" {', '.join(found.left_out)} left out: references of the table." if found.left_out else ""
    return f"{what}{seeds}; the method minus {against}.{left_out}"


def _grid(found: Differences, *, tablefmt: str) -> str:
    from tabulate import tabulate

    spec = found.table.spec
    shown = [question for question in QUESTIONS if any(each.p[question] is not None for each in found.comparisons)]
    header = [*map(_heading, (*spec.rows[:-1], *_kept(found), spec.rows[-1])), "against", "difference", "95 % interval"]
    header += [f"p {question}" for question in shown] + ["corrected", "verdict", "seeds needed"]
    lines = [
        [
            *each.block,
            *each.column,
            each.first,
            each.second,
            _points(each),
            interval_text(each.intervals[found.over]),
            *(p_text(each.p[question]) for question in shown),
            p_text(each.p_corrected),
            each.verdict or "no test",
            seeds_text(each.seeds_needed) or "–",
        ]
        for each in found.comparisons
    ]
    labels = len(spec.rows) + len(_kept(found)) + 1
    alignment = ["left"] * labels + ["right"] * (len(header) - labels - 2) + ["left", "right"]
    return tabulate(lines, header, tablefmt=tablefmt, colalign=alignment, disable_numparse=True)


def _legend(found: Differences) -> list[str]:
    holes = sum(each.difference is None for each in found.comparisons)
    if holes == len(found.comparisons):
        return ["Nothing can be tested yet: every comparison has a hole (k of n columns complete), never averaged."]
    chosen = "" if found.asked else f" ({_why(found)}; over=… asks another)"
    lines = [
        f"Interval, corrected p and verdict are over {found.over}: do they hold with {_ABOUT[found.over]}?{chosen}",
        f"Corrected: Holm over the {found.family} tests of this output; not told apart: {SIGNIFICANCE:.2g} or more. "
        "Intervals are not corrected.",
    ]
    for question in QUESTIONS:
        if any(each.p[question] is not None for each in found.comparisons):
            lines.append(f"p {question}: {_TESTS[question]}.{_floor(found) if question == 'datasets' else ''}")
    lines += [f"No p over samples for {count}: {reason}." for reason, count in found.reasons.items()]
    if holes:
        lines.append(f"{holes} of {len(found.comparisons)} have a hole (k of n columns complete): never averaged.")
    if any(each.seeds_needed is not None for each in found.comparisons):
        lines.append("Seeds needed: to find the observed difference over seeds at 5 % in 80 of 100 cases, uncorrected.")
    return lines


def _why(found: Differences) -> str:
    if found.over == "datasets":
        enough = smallest_sign_flip_p(found.datasets) * len(found.comparisons) < SIGNIFICANCE
        return f"{found.datasets} datasets are enough for a verdict" if enough else "the table has a single seed"
    return f"{found.datasets} datasets are too few for a verdict over datasets"


def _floor(found: Differences) -> str:
    smallest = smallest_sign_flip_p(found.datasets)
    return f" With {found.datasets} datasets it cannot be below {p_text(smallest)}." if smallest >= 0.001 else ""


def p_text(p: float | None) -> str:
    """Return a p for people: 0.034, <0.001, or a dash where there is no test."""
    if p is None:
        return "–"
    # a hair more: 0.0625 is 0.063, not the even 0.062
    return "<0.001" if p < 0.0005 else f"{p + 1e-9:.3f}"


def _points(each: Comparison) -> str:
    if each.difference is None:
        return f"· ({each.complete} of {each.of})"
    return signed_percent(each.difference, minus="−")


def interval_text(interval: Interval | None, *, digits: int = 1) -> str:
    """Return an interval of fractions in points: [−0.3, +2.1], or a dash where there is none."""
    if interval is None:
        return "–"
    low, high = (signed_percent(end, digits, minus="−") for end in (interval.low, interval.high))
    return f"[{low}, {high}]"


def _end(interval: Interval | None, end: str) -> float | None:
    return None if interval is None else float(getattr(interval, end))


def _kept(found: Differences) -> tuple[str, ...]:
    spec = found.table.spec
    return tuple(axis for axis in spec.columns if axis not in spec.average)


def _heading(axis: str) -> str:
    return axis[:1].upper() + axis[1:]
