"""Measured and predicted costs side by side, as a table and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.bench_plot import new_figure, save
from results.bench_tables import grid
from results.units import duration, size

_POINT = "#0072B2"  # of Okabe and Ito's palette


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One subject: what was measured, and what the model fitted to all other subjects predicts.

    Attributes:
        label: its name.
        seconds: step time: the median ratio to the frozen model within rounds, times the frozen model's median.
        predicted_seconds: None where there is no prediction for the subject.
        bytes: peak memory.
        predicted_bytes: None as above.
    """

    label: str
    seconds: float
    predicted_seconds: float | None
    bytes: int
    predicted_bytes: float | None


def fit_table(checked: Sequence[Checked], *, where: str) -> str:
    """Return GitHub Markdown: every subject, and median and largest error of time and memory."""
    header = ["Predicted by the others", "Step", "Predicted", "Error", "Peak memory", "Predicted", "Error"]
    lines = [
        [
            one.label,
            duration(one.seconds),
            "no prediction" if one.predicted_seconds is None else duration(one.predicted_seconds),
            _percent(one.predicted_seconds, one.seconds),
            size(one.bytes),
            "no prediction" if one.predicted_bytes is None else size(round(one.predicted_bytes)),
            _percent(one.predicted_bytes, one.bytes),
        ]
        for one in checked
    ]
    time = [(one.label, one.predicted_seconds, one.seconds) for one in checked]
    memory = [(one.label, one.predicted_bytes, one.bytes) for one in checked]
    summary = f"- step time: {_summary(time)}\n- peak memory: {_summary(memory)}"
    return f"### Predictions\n\n{where}.\n\n{grid(header, lines)}\n\n{summary}\n"


def draw_fit(checked: Sequence[Checked], path: Path, *, title: str) -> Path:
    """Write predicted against measured step time and peak memory, with the line where they are equal."""
    figure = new_figure(11.0, 5.6)
    left, right = figure.subplots(1, 2)
    _scatter(left, [(one.label, 1e3 * one.seconds, _scaled(one.predicted_seconds, 1e3)) for one in checked], "ms")
    mebi = 1 / 2**20
    _scatter(right, [(one.label, mebi * one.bytes, _scaled(one.predicted_bytes, mebi)) for one in checked], "MiB")
    left.set_title("Step time", fontsize=10)
    right.set_title("Peak memory", fontsize=10)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.supxlabel("Measured", fontsize=9.5)
    figure.supylabel("Predicted by the model fitted to the others", fontsize=9.5)
    return save(figure, path)


def _scatter(axes: Any, points: Sequence[tuple[str, float, float | None]], unit: str) -> None:
    known = [(label, measured, predicted) for label, measured, predicted in points if predicted is not None]
    values = [value for _, *both in known for value in both]
    low, high = min(values), max(values)
    margin = 0.2 * (high - low) or 0.1 * high
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="#888888", linewidth=0.9, linestyle=":")
    axes.scatter([one[1] for one in known], [one[2] for one in known], s=16, color=_POINT, zorder=3)
    _label(axes, known, span=high - low or 1.0)
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.set_aspect("equal")
    axes.set_xlabel(unit, fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Any, points: Sequence[tuple[str, float, float]], *, span: float) -> None:
    """Name the points above the line on their left and those below it on their right, with room between the names."""
    # a name that moves up or down also moves away from the line, near which the other points lie
    for side, sign, outer in (("right", -1, min), ("left", 1, max)):
        own = sorted((one for one in points if (one[2] >= one[1]) == (sign < 0)), key=lambda one: one[2])
        heights = _spread([y for _, _, y in own], gap=span / 17)
        for (label, x, y), height in zip(own, heights, strict=True):
            axes.annotate(
                label,
                (x, y),
                (outer(x, height) + sign * 0.07 * span, height),
                fontsize=6.5,
                va="center",
                ha=side,
                arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
            )


def _spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Return increasing heights moved as little as it takes to lie a gap apart (in the sum of squares)."""
    pools: list[list[float]] = []  # neighbours that touch move together, to the mean of what each would like
    for index, height in enumerate(heights):
        pools.append([height - index * gap])
        while len(pools) > 1 and statistics.fmean(pools[-2]) > statistics.fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [statistics.fmean(pool) for pool in pools for _ in pool]
    return [base + index * gap for index, base in enumerate(level)]


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _percent(predicted: float | None, measured: float) -> str:
    return "" if predicted is None else f"{100 * (predicted / measured - 1):+.1f} %"


def _summary(rows: Sequence[tuple[str, float | None, float]]) -> str:
    errors = {label: abs(guess / measured - 1) for label, guess, measured in rows if guess is not None}
    worst = max(errors, key=lambda label: errors[label])
    median = statistics.median(errors.values())
    return f"median error {100 * median:.1f} %, largest {100 * errors[worst]:.1f} % ({worst}), {len(errors)} subjects"
