"""Pictures of facts about methods: parameters against size, rank of the update against parameters."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.palette import colour_of, marker_size, shape_of

_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One method: its sizes (empty where it has none), parameters and, in the second picture, ranks."""

    name: str
    colour: str
    mark: str
    sizes: Sequence[int]
    parameters: Sequence[int]
    ranks: Sequence[int]


def draw_parameters(facts: Path, picture: Path) -> None:
    """Draw trainable parameters against the size of every method, one panel per backbone, as a PNG.

    `facts` is a CSV with the columns backbone, method, size_field, size and parameters.
    """
    rows = _rows(facts)
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    figure, canvas = _figure(width=5.0 * len(backbones), height=4.8)
    panels = figure.subplots(1, len(backbones), squeeze=False)[0]
    for axes, backbone in zip(panels, backbones, strict=True):
        lines = _lines(rows, backbone=backbone)
        _prepare(axes, title=backbone, x="Rank, or number of bases", y="Trainable parameters")
        last = max(size for line in lines for size in line.sizes)
        for line in lines:
            if line.sizes:
                axes.plot(line.sizes, line.parameters, marker=line.mark, **_style(line))
            else:
                axes.plot([1, last], [line.parameters[0]] * 2, linestyle="--", linewidth=1.4, color=line.colour)
        axes.set_xlim(0.8, last * 30)
        axes.set_xticks([10**power for power in range(5) if 10**power <= last * 2])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))
        ends = [(line, line.sizes[-1] if line.sizes else last, line.parameters[-1]) for line in lines]
        _label_ends(axes, canvas, ends)
    figure.savefig(picture, format="png")


def draw_ranks(facts: Path, picture: Path) -> None:
    """Draw the rank of the update of one weight against the parameters trained on it, as a PNG.

    Methods of full rank at every size share one value, so they lie one under the other in a panel of their own.
    `facts` is a CSV with the columns out_features, in_features, method, size_field, size, parameters and rank.
    """
    rows = _rows(facts)
    out, in_ = int(rows[0]["out_features"]), int(rows[0]["in_features"])
    lines = _lines(rows)
    full = [line for line in lines if set(line.ranks) == {min(out, in_)}]
    low = [line for line in lines if line not in full]
    figure, canvas = _figure(width=7.6, height=5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[max(len(full), 1), 6])
    _prepare(bottom, title="", x="Trainable parameters on this weight", y="Rank of the update")
    top.set_title(f"One weight of {out} x {in_}", fontsize=11, fontweight="bold")
    top.set_ylim(-0.7, len(full) - 0.3)
    top.set_yticks([])
    top.set_ylabel(f"Full rank\n{min(out, in_)}", fontsize=9.5)
    top.grid(color="#e2e2e2", linewidth=0.6)
    top.spines[["top", "right"]].set_visible(False)
    top.tick_params(axis="x", which="both", length=0)
    for height, line in enumerate(full):
        top.plot(line.parameters, [height] * len(line.parameters), marker=line.mark, **_style(line))
        _name_at(top, line, max(line.parameters), height)
    for line in low:
        bottom.plot(line.parameters, line.ranks, marker=line.mark, **_style(line))
    bottom.set_ylim(0.75, min(out, in_) * 1.6)
    bottom.set_xlim(min(p for line in lines for p in line.parameters) / 1.6, out * in_ * 25)
    bottom.xaxis.set_major_formatter(lambda value, _: _short(value))
    bottom.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    level = [line for line in low if len(set(line.ranks)) == 1]
    for line in level:
        _name_at(bottom, line, min(line.parameters), line.ranks[0], raised=11)
    _label_ends(bottom, canvas, [(line, max(line.parameters), line.ranks[-1]) for line in low if line not in level])
    figure.savefig(picture, format="png")


def _rows(facts: Path) -> list[dict[str, str]]:
    with facts.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _lines(rows: Sequence[Mapping[str, str]], *, backbone: str | None = None) -> list[_Line]:
    lines = []
    for index, name in enumerate(sorted({row["method"] for row in rows})):
        own = [row for row in rows if row["method"] == name and backbone in (None, row.get("backbone"))]
        field = own[0]["size_field"]
        lines.append(
            _Line(
                name=name if field in ("", "rank") else f"{name} ({field})",
                colour=colour_of(name, index),
                mark=shape_of(name, index),
                sizes=[int(row["size"]) for row in own if row["size"]],
                parameters=[int(row["parameters"]) for row in own],
                ranks=[int(row.get("rank", 0)) for row in own],
            )
        )
    return lines


def _figure(*, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, FigureCanvasAgg(figure)


def _prepare(axes: Any, *, title: str, x: str, y: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(title, fontsize=11, fontweight="bold")
    axes.set_xlabel(f"{x} (log scale)", fontsize=9.5)
    axes.set_ylabel(f"{y} (log scale)", fontsize=9.5)
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.minorticks_off()


def _style(line: _Line) -> dict[str, Any]:
    return {
        "color": line.colour,
        "linewidth": 1.8,
        "markersize": 0.85 * marker_size(line.mark),
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def _short(value: float) -> str:
    """Return 10 k, 2.36 M, 8 B."""
    for unit, letter in _UNITS:
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"


def _label_ends(axes: Any, canvas: Any, ends: Sequence[tuple[_Line, float, float]]) -> None:
    """Write each name to the right of the end of its line, moved up where two would touch."""
    canvas.draw()
    point = canvas.figure.dpi / 72
    taken: list[tuple[float, float, float]] = []
    for line, x, y in sorted(ends, key=lambda end: (end[2], end[0].name)):
        left, up = map(float, axes.transData.transform((x, y)))
        right, place = left + (12 + 6.2 * len(line.name)) * point, up
        while any(left < end and start < right and abs(place - at) < 12 * point for start, end, at in taken):
            place += point
        _name_at(axes, line, x, y, raised=(place - up) / point)
        taken.append((left, right, place))


def _name_at(axes: Any, line: _Line, x: float, y: float, *, raised: float = 0.0) -> None:
    axes.annotate(
        line.name,
        (x, y),
        (7, raised),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=line.colour,
        fontweight="bold",
    )
