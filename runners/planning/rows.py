"""The lines of a plan: one per method of a table, summed over everything it runs on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runners.plan import QuestionRun
from runners.planning.cells import STATES

if TYPE_CHECKING:
    from results.table import TableSpec
    from runners.planning.cells import PlannedCell
    from runners.planning.forecast import Forecast, Forecaster
    from runners.planning.throughput import Throughput

Pair = tuple["PlannedCell", "Forecast"]


def group_cells(spec: TableSpec, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Return the cells by row: by the fewest of the table's row axes, the last ones first, that tell methods apart.

    A row is then one method of one size on one backbone, whatever else the table varies.
    """
    wider = [spec.rows[-count:] for count in range(1, len(spec.rows) + 1)] + [(*spec.rows, *spec.columns)]
    groups: dict[str, list[Pair]] = {}
    for axes in wider:
        groups = {}
        for cell, forecast in pairs:
            label = " / ".join(cell.planned.cell.labels[axis] for axis in axes)
            groups.setdefault(label, []).append((cell, forecast))
        if all(len({_identity(cell) for cell, _ in group}) == 1 for group in groups.values()):
            break
    return groups


def row_of(
    label: str, pairs: Sequence[Pair], *, throughput: Throughput | None, forecaster: Forecaster
) -> dict[str, Any]:
    """Return the numbers of one row; a number that is not known is None, and a sum with an unknown part too.

    ``*_left`` is what the cells take that a sweep would still run; the others are over all cells.
    """
    cells = [cell for cell, _ in pairs]
    left = [(cell, forecast) for cell, forecast in pairs if cell.is_open]
    states = Counter(cell.state for cell in cells)
    solution = cells[0].run.solution
    heads, peaks = [cell.head for cell in cells], [forecast.peak_bytes for _, forecast in pairs]
    steps = [cell.work.steps for cell in cells]
    known = [step for step in steps if step is not None]
    largest = max(pairs, key=lambda pair: pair[1].peak_bytes or 0)[1]
    rates = {rate.source: rate for pair in pairs if throughput and (rate := throughput.rate(*pair)) and pair[0].trained}
    problems = {forecaster.problems[one.group] for _, one in pairs if one.group in forecaster.problems}
    return {
        "method": label,
        "cells": len(cells),
        **{state: states[state] for state in STATES},
        "parameters": solution.reached,
        "head_parameters_least": min(heads),
        "head_parameters_most": max(heads),
        "budget_asked": solution.asked,
        "budget_note": solution.note,
        "steps_least": min(known, default=None),
        "steps_most": max(known, default=None),
        "steps": _sum(pairs, lambda cell, _: cell.work.steps),
        "steps_left": _sum(left, lambda cell, _: cell.work.steps),
        "samples": _sum(pairs, lambda cell, _: cell.work.seen_samples),
        "train_flops": _sum(pairs, lambda _, forecast: forecast.train_flops),
        "train_flops_left": _sum(left, lambda _, forecast: forecast.train_flops),
        "eval_flops": _sum(pairs, lambda _, forecast: forecast.eval_flops),
        "eval_flops_left": _sum(left, lambda _, forecast: forecast.eval_flops),
        "peak_bytes": max((peak for peak in peaks if peak is not None), default=None),
        **{f"peak_{name}": value for name, value in largest.parts.items()},
        "train_s": _seconds(pairs, throughput, training=True),
        "train_s_left": _seconds(left, throughput, training=True),
        "eval_s": _seconds(pairs, throughput, training=False),
        "eval_s_left": _seconds(left, throughput, training=False),
        "rate_source": ", ".join(rates) or None,
        "problem": "; ".join(sorted(problems)) or None,
    }


def total_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums over all rows; a sum with an unknown part is None."""
    summed = (
        "cells",
        *STATES,
        *(name for name in rows[0] if name.split("_")[0] in ("steps", "train", "eval", "samples")),
    )
    names = [name for name in summed if name not in ("steps_least", "steps_most")]
    total = {name: _total([row[name] for row in rows]) for name in names}
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"] is not None]
    return {**total, "peak_bytes": max(peaks, default=None)}


def _identity(cell: PlannedCell) -> str:
    # a sum over questions has few parts: one that is not known would hide all others
    unknown = isinstance(cell.run, QuestionRun) and cell.work.steps is None
    return repr((cell.run.backbone, cell.run.solution.method, unknown))


def _seconds(pairs: Sequence[Pair], throughput: Throughput | None, *, training: bool) -> float | None:
    if throughput is None:
        return None
    if training:
        return _sum(pairs, throughput.train_s)
    return _sum(pairs, throughput.eval_s)


def _sum(pairs: Sequence[Pair], value: Callable[[PlannedCell, Forecast], Any]) -> Any:
    return _total([value(*pair) for pair in pairs])


def _total(values: Sequence[Any]) -> Any:
    return None if any(value is None for value in values) else sum(values)
