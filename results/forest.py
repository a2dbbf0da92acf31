"""The picture of differences: each with its 95 % interval beside 0, a panel per place of the table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from results.comparing import Comparison
from results.differences import Differences
from results.entry import Row
from results.metric_names import spoken
from results.palette import INK, colour_of, marker_size, shape_of
from results.table import TableError
from results.units import signed_percent

_ACROSS = 3


def draw_forest(found: Differences, path: Path) -> None:
    """Draw the differences as a PNG at `path`; TableError where none has a number.

    A filled marker is told apart, a hollow one is not. A marker has the colour and shape of the first method. Rows that
    train nothing lie far from all others and would squeeze them: theirs is written.
    """
    panels: dict[str, list[Comparison]] = {}
    for each in found.comparisons:
        if each.difference is not None:
            panels.setdefault(" · ".join((*each.block, *each.column)), []).append(each)
    if not panels:
        raise TableError(f"table {found.table.spec.name} has no difference to draw: every comparison has a hole")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(len(panels), _ACROSS)
    down = math.ceil(len(panels) / across)
    height = 0.32 * max(map(len, panels.values())) + 0.8
    figure = Figure(figsize=(7.2 if across == 1 else 4.4 * across, down * height + 1.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    grid = [axes for line in figure.subplots(down, across, squeeze=False, sharex=True) for axes in line]
    for axes, (title, own) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, own, found, title=title)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(len(panels) - across, 0) : len(panels)]:
        axes.tick_params(labelbottom=True)  # the lowest of each column, which sharing leaves bare under a last line
    figure.suptitle(_title(found), fontsize=11, fontweight="bold")
    figure.supxlabel(_x_label(found), fontsize=9.5)
    figure.savefig(path, format="png")


def _draw_panel(axes: Any, own: list[Comparison], found: Differences, *, title: str) -> None:
    methods = list(found.table.spec.axes[found.table.spec.rows[-1]])
    axes.set_title(title, fontsize=10)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    untrained = {row.labels for row in found.table.rows if _trains_nothing(row)}
    for place, each in enumerate(own):
        if {(*each.block, each.first), (*each.block, each.second)} & untrained:
            shown = signed_percent(each.difference or 0.0, minus="−")
            axes.annotate(
                f"{shown} (trains nothing)", (0, place), (6, 0), textcoords="offset points", va="center", fontsize=8
            )
            continue
        index = methods.index(each.first)
        colour, shape = colour_of(each.first, index), shape_of(each.first, index)
        interval = each.intervals[found.over]
        if interval is not None:
            axes.plot([interval.low * 100, interval.high * 100], [place, place], color=colour, linewidth=1.6)
        told = each.verdict in ("better", "worse")
        axes.plot(
            (each.difference or 0.0) * 100,
            place,
            marker=shape,
            markersize=1.2 * marker_size(shape),
            color=colour,
            markerfacecolor=colour if told else "white",
            markeredgewidth=1.3,
            linestyle="none",
            zorder=3,
        )
    names = [each.first if found.reference is not None else f"{each.first} − {each.second}" for each in own]
    axes.set_yticks(range(len(own)), names, fontsize=8.5)
    axes.set_ylim(len(own) - 0.4, -0.6)


def _trains_nothing(row: Row) -> bool:
    return row.facts.adapter_parameters == 0 and row.facts.head_parameters == 0


def _title(found: Differences) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(f"{found.table.spec.title}: differences", 90))


def _x_label(found: Differences) -> str:
    spec = found.table.spec
    against = f", minus {found.reference}" if found.reference is not None else ""
    average = f", average over {' and '.join(spec.average)}" if spec.average else ""
    return (
        f"{spoken(spec.metric_at({}))} in points{against}{average}\n"
        f"bars: 95 % interval over {found.over}; filled: told apart (Holm over {found.family} tests), hollow: not"
    )
