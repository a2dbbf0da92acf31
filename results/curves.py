"""Pictures with lines: ours beside the paper's, against the data budget or against trainable parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.metric_names import spoken
from results.palette import INK, colour_of, marker_size, shape_of
from results.plot_spec import PlotSpec
from results.rollup import Table
from results.table import TableError
from results.units import quantity

_GIGABYTE = 1e9
_DODGE = 0.05  # of the distance between two data budgets


@dataclass(frozen=True, kw_only=True)
class Point:
    """One average; `top1` and `std` are in percent, `name` is the row's label where points of a line differ in it."""

    x: float
    top1: float
    std: float | None
    name: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the picture: ours and the paper's points, either may be empty."""

    name: str
    legend: str
    ours: tuple[Point, ...]
    paper: tuple[Point, ...]


def lines_of(table: Table) -> tuple[Line, ...]:
    """Return the lines of the picture that the table file asks for; rows whose average is a hole give no point.

    Raises TableError where the table has no average or several.
    """
    spec = table.spec
    if len(table.average_columns) != 1:
        raise TableError(f"table {spec.name} has {len(table.average_columns)} averages; a picture of lines needs one")
    assert spec.plot is not None
    lines = []
    for name, labels in spec.plot.lines.items():
        rows = [row for row in table.rows if row.labels[-1] in labels]
        ours, paper, memory = [], [], []
        for row in rows:
            average, facts = row.averages[0], row.facts
            memory += [facts.peak_memory_bytes] if facts.peak_memory_bytes and not facts.whole_process else []
            x = _x(table, spec.plot, row.labels, facts.adapter_parameters)
            if average.mean is not None and x is not None:
                std = None if average.std is None else 100 * average.std
                ours.append(Point(x=x, top1=100 * average.mean, std=std, name=row.labels[-1]))
            x = _x(table, spec.plot, row.labels, spec.plot.parameters.get(row.labels[-1]))
            if average.paper is not None and x is not None:
                paper.append(Point(x=x, top1=100 * average.paper, std=None, name=row.labels[-1]))
        legend = name + _memory_text(spec.plot.memory_gb.get(name), max(memory, default=None))
        lines.append(Line(name=name, legend=legend, ours=_ordered(ours), paper=_ordered(paper)))
    return tuple(lines)


def draw_lines(table: Table, path: Path) -> None:
    """Draw the lines of a table as a PNG at `path`: ours filled and solid, the paper's hollow and dashed.

    Raises TableError where neither has a point.
    """
    spec, lines = table.spec, lines_of(table)
    assert spec.plot is not None
    if not any(line.ours or line.paper for line in lines):
        raise TableError(f"table {spec.name} has nothing to plot: no average is complete and the paper has none")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, line in enumerate(lines):
        _draw_line(axes, line, index)
    _prepare(axes, table, spec.plot, lines)
    figure.suptitle(_wrapped(spec.title), fontsize=11, fontweight="bold")
    figure.savefig(path, format="png")


def _x(table: Table, plot: PlotSpec, labels: Sequence[str], parameters: float | None) -> float | None:
    if plot.kind == "against_parameters":
        return parameters
    axis = table.spec.rows.index(plot.along)
    place = list(table.spec.axes[plot.along]).index(labels[axis])
    # side by side, so that equal averages do not hide each other
    lines = list(plot.lines)
    return place + _DODGE * (lines.index(labels[-1]) - (len(lines) - 1) / 2)


def _ordered(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: point.x))


def _memory_text(paper_gb: float | None, ours_bytes: float | None) -> str:
    parts = [] if paper_gb is None else [f"paper {paper_gb:g} GB"]
    parts += [] if ours_bytes is None else [f"ours {ours_bytes / _GIGABYTE:.1f} GB"]
    return f"  ({', '.join(parts)})" if parts else ""


def _draw_line(axes: Any, line: Line, index: int) -> None:
    colour, shape = colour_of(line.name, index), shape_of(line.name, index)
    style: Mapping[str, Any] = {
        "color": colour,
        "marker": shape,
        "markersize": marker_size(shape),
        "linewidth": 1.6,
        "zorder": 3,
    }
    if line.paper:
        xs, ys = [point.x for point in line.paper], [point.top1 for point in line.paper]
        axes.plot(xs, ys, **style, linestyle=(0, (4, 2.5)), markerfacecolor="white", markeredgewidth=1.4)
    if line.ours:
        xs, ys = [point.x for point in line.ours], [point.top1 for point in line.ours]
        axes.plot(xs, ys, **style, linestyle="-", markeredgecolor="white", markeredgewidth=0.6)
        spread = [point for point in line.ours if point.std is not None]
        axes.errorbar(
            [point.x for point in spread],
            [point.top1 for point in spread],
            yerr=[point.std for point in spread],
            fmt="none",
            ecolor=colour,
            capsize=3,
        )


def _prepare(axes: Any, table: Table, plot: PlotSpec, lines: Sequence[Line]) -> None:
    spec = table.spec
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if plot.kind == "against_data":
        labels = list(spec.axes[plot.along])
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.3, len(labels) - 0.7)
        axes.set_xlabel(f"{plot.along.capitalize()} for training", fontsize=9.5)
    else:
        _parameter_axis(axes, lines)
        _name_points(axes, lines)
    axes.set_ylabel(
        f"{spoken(spec.metric_at({}))} in %, average over {len(table.columns)} {spec.average[0]}s", fontsize=9.5
    )
    _legend(axes, table, lines)


def _parameter_axis(axes: Any, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    xs = [point.x for line in lines for point in (*line.ours, *line.paper)]
    axes.set_xscale("log")
    axes.set_xlim(min(xs) / 1.5, max(xs) * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Trainable parameters of the adapters (log scale)", fontsize=9.5)


def _tick(parameters: float) -> str:
    """Return 200 k, 1 M."""
    return re.sub(r"\.0+\b", "", quantity(round(parameters)))


def _name_points(axes: Any, lines: Sequence[Line]) -> None:
    """Write what tells the points of a line apart, such as the rank: above the line that ends highest, else below."""
    tops = {
        line.name: max(point.top1 for point in (*line.ours, *line.paper)) for line in lines if line.ours or line.paper
    }
    best = max(tops, key=lambda name: tops[name])
    for index, line in enumerate(lines):
        above = line.name == best
        for point in line.ours or line.paper:
            # lines mostly rise: up to the left and down to the right of a point there is room
            axes.annotate(
                point.name.removeprefix(f"{line.name}-"),
                (point.x, point.top1),
                (-4, 6) if above else (4, -6),
                textcoords="offset points",
                ha="right" if above else "left",
                va="bottom" if above else "top",
                fontsize=8,
                color=colour_of(line.name, index),
            )


def _legend(axes: Any, table: Table, lines: Sequence[Line]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=colour_of(line.name, i),
            marker=(shape := shape_of(line.name, i)),
            markersize=marker_size(shape),
            linewidth=1.6,
            label=line.legend,
        )
        for i, line in enumerate(lines)
    ]
    sides = []
    if any(line.ours for line in lines):
        repeats = [axis for axis in table.spec.repeat if len(table.spec.axes[axis]) > 1]
        spread = f", bars: standard deviation over {' and '.join(repeats)}s" if repeats else ""
        sides.append(Line2D([], [], color=INK, marker="o", linewidth=1.6, label=f"filled, solid: ours{spread}"))
    if any(line.paper for line in lines):
        alone = "" if sides else " (nothing of ours is complete yet)"
        dashed: Mapping[str, Any] = {"linestyle": (0, (4, 2.5)), "markerfacecolor": "white"}
        text = f"hollow, dashed: the paper's numbers{alone}"
        sides.append(Line2D([], [], color=INK, marker="o", linewidth=1.6, label=text, **dashed))
    axes.legend(handles=[*handles, *sides], fontsize=8.5, frameon=False, handlelength=3.2, loc="best")


def _wrapped(title: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(title, 90))
