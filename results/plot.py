"""Pictures of tables."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.curves import draw_lines
from results.entry import Entry, Row
from results.metric_names import spoken
from results.palette import colour_of, marker_size, shape_of
from results.rollup import Table
from results.table import TableError
from results.units import quantity


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One row of the table in the plot; `parameters` is what it trains, `mean` and `std` are in percent."""

    label: str
    parameters: int
    mean: float
    std: float
    style: int


def draw(table: Table, path: Path) -> None:
    """Draw the picture that the table file asks for, else the averages against parameters, as a PNG at `path`.

    Raises TableError where there is nothing to draw.
    """
    if table.spec.plot is not None:
        draw_lines(table, path)
    else:
        accuracy_against_parameters(table, path)


def accuracy_against_parameters(table: Table, path: Path) -> None:
    """Draw the average metric of every complete row against its trainable parameters, as a PNG at `path`.

    One panel per block of rows. A row that trains nothing is a dashed line. Rows whose average is a hole are left out;
    TableError if none is left, or if the table has no average.
    """
    panels = _panels(table)
    if not any(panels.values()):
        raise TableError(
            f"table {table.spec.name} has nothing to plot: no row has a complete average and its parameters"
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {title: points for title, points in panels.items() if points}
    across = min(len(shown), 3)
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(7.2 if across == 1 else 5.2 * across, 4.6 * down), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = [axes for line in figure.subplots(down, across, squeeze=False) for axes in line]
    for axes, (title, points) in zip(grid, shown.items(), strict=False):
        _draw_panel(axes, points, title=title if len(shown) > 1 else "")
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(table.spec.title, fontsize=11, fontweight="bold")
    figure.supxlabel("Trainable parameters, adapter and head (log scale)", fontsize=9.5)
    figure.supylabel(_y_label(table), fontsize=9.5)
    canvas.draw()
    for axes, points in zip(grid, shown.values(), strict=False):
        _write_labels(axes, [point for point in points if point.parameters], canvas.get_renderer())
    figure.savefig(path, format="png")


def _panels(table: Table) -> dict[str, list[_Point]]:
    if not table.average_columns:
        raise TableError(f"table {table.spec.name} has no average to plot; name a column axis under average")
    styles = {label: index for index, label in enumerate(table.spec.axes[table.spec.rows[-1]])}
    panels: dict[str, list[_Point]] = {}
    for row in table.rows:
        for labels, average in zip(table.average_columns, row.averages, strict=True):
            points = panels.setdefault(" · ".join((*row.labels[:-1], *labels)), [])
            point = _point(row, average, styles[row.labels[-1]])
            points += [point] if point is not None else []
    return panels


def _point(row: Row, average: Entry, style: int) -> _Point | None:
    facts = row.facts
    if average.mean is None or facts.adapter_parameters is None or facts.head_parameters is None:
        return None
    return _Point(
        label=row.labels[-1],
        parameters=facts.adapter_parameters + facts.head_parameters,
        mean=average.mean * 100,
        std=(average.std or 0.0) * 100,
        style=style,
    )


def _y_label(table: Table) -> str:
    spec = table.spec
    repeats = [axis for axis in spec.repeat if len(spec.axes[axis]) > 1]
    spread = f"\n± standard deviation over {' and '.join(repeats)}" if repeats else ""
    return f"{spoken(spec.metric_at({}))} in %, average over {' and '.join(spec.average)}{spread}"


def _tick(parameters: float) -> str:
    """Decades need no decimals: 10 k, 1 M."""
    return re.sub(r"\.0+\b", "", quantity(round(parameters)))


def _draw_panel(axes: Any, points: Sequence[_Point], *, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_title(title, fontsize=10)
    axes.set_xscale("log")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    trained = [point.parameters for point in points if point.parameters]
    if trained:
        axes.set_xlim(min(trained) / 2.5, max(trained) * 2.5)
    for point in (point for point in points if point.parameters):
        axes.errorbar(
            point.parameters,
            point.mean,
            yerr=point.std or None,
            fmt=(shape := shape_of(point.label, point.style)),
            markersize=1.4 * marker_size(shape),
            markeredgecolor="white",
            capsize=3,
            color=colour_of(point.label, point.style),
        )
    low, high = _range([point for point in points if point.parameters] or points)
    axes.set_ylim(low, high)
    for point in (point for point in points if not point.parameters):
        _draw_untrained(axes, point, shown=low <= point.mean <= high)


def _range(points: Sequence[_Point]) -> tuple[float, float]:
    """Return the span of the points with their spread and some air, so that differences between them can be seen."""
    low = min(point.mean - point.std for point in points)
    high = max(point.mean + point.std for point in points)
    air = max(0.15 * (high - low), 0.5)
    return low - 2 * air, high + air


def _draw_untrained(axes: Any, point: _Point, *, shown: bool) -> None:
    """Draw a row that trains nothing as a line, or say its value at the edge where it lies far from the others."""
    color = colour_of(point.label, point.style)
    text = f"{point.label} (trains nothing)"
    if shown:
        axes.axhline(point.mean, linestyle="--", linewidth=1.3, color=color)
    else:
        text += f": {point.mean:.1f} %, outside the picture"
    axes.annotate(
        text,
        (0.01, point.mean if shown else 0.0),
        (0, 4),
        xycoords=("axes fraction", "data" if shown else "axes fraction"),
        textcoords="offset points",
        fontsize=8.5,
        color=color,
    )


def _write_labels(axes: Any, points: Sequence[_Point], renderer: Any) -> None:
    """Put each label at the first free place around its point, or at the one that overlaps least."""
    obstacles = [text.get_window_extent(renderer) for text in axes.texts]
    for point in points:
        obstacles.append(_box(axes, point))
    for point in points:
        candidates = []
        for order, (x, y, horizontal, vertical) in enumerate(_PLACES):
            text = axes.annotate(
                point.label,
                (point.parameters, point.mean),
                (x, y),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=8.5,
                color="#222222",
            )
            box = text.get_window_extent(renderer)
            covered = sum(_overlap(box, other) for other in obstacles)
            outside = box.width * box.height - _overlap(box, axes.bbox)
            candidates.append((covered + outside, order, text, box))
        _, _, _, box = best = min(candidates, key=lambda each: each[:2])
        for candidate in candidates:
            if candidate is not best:
                candidate[2].remove()
        obstacles.append(box)


def _box(axes: Any, point: _Point) -> Any:
    """The pixels that a point and its error bar cover."""
    from matplotlib.transforms import Bbox

    low = axes.transData.transform((point.parameters, point.mean - point.std))
    high = axes.transData.transform((point.parameters, point.mean + point.std))
    return Bbox([low - 8, high + 8])


def _overlap(one: Any, other: Any) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


_PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (7, 7, "left", "bottom"),
    (7, -7, "left", "top"),
    (-7, 7, "right", "bottom"),
    (-7, -7, "right", "top"),
    (0, 20, "center", "bottom"),
    (0, -20, "center", "top"),
    (12, 18, "left", "bottom"),
    (12, -18, "left", "top"),
    (-12, 18, "right", "bottom"),
    (-12, -18, "right", "top"),
)
