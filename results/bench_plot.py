"""Pictures of benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.bench_forms import Crossing, crossings
from results.bench_record import Benchmark, CaseResult, SubjectResult, ratio, spread
from results.files import write_atomically
from results.units import duration, size

# Okabe and Ito's palette: told apart with any colour vision
_BAR, _REFERENCE = "#56B4E9", "#0072B2"
_FORMS = {"weight": ("#0072B2", "o", "-"), "activation": ("#D55E00", "s", "-"), "auto": ("#000000", "x", "--")}


def draw(benchmark: Benchmark, folder: Path) -> tuple[Path, ...]:
    """Write the pictures of a benchmark into a folder and return their paths.

    `name.png` has a panel of bars per case that is a model, `name_crossover.png` a panel of curves per single layer;
    where there are curves alone they are `name.png`.
    """
    written = []
    whole = [case for case in benchmark.cases if case.layer is None and case.subjects]
    if whole:
        figure = _bars(benchmark, whole)
        written.append(save(figure, folder / f"{benchmark.name}.png"))
    found = crossings(benchmark)
    if found:
        written.append(save(_curves(benchmark, found), folder / f"{benchmark.name}{'_crossover' if whole else ''}.png"))
    return tuple(written)


def save(figure: Any, path: Path) -> Path:
    """Write a figure, wholly or not at all, and return its path."""
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def new_figure(width: float, height: float) -> Any:
    """Return a figure of a size in inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bars(benchmark: Benchmark, cases: Sequence[CaseResult]) -> Any:
    rows = max(len(case.subjects) for case in cases)
    figure = new_figure(8.0, len(cases) * (0.42 * rows + 0.9) + 0.6)
    for axes, case in zip(figure.subplots(len(cases), 1, squeeze=False)[:, 0], cases, strict=True):
        _draw_bars(axes, benchmark, case)
        axes.set_title(case.name if len(cases) > 1 else "", fontsize=10)
    figure.suptitle(_title(benchmark), fontsize=11, fontweight="bold")
    named = benchmark.relative_to[0] if benchmark.relative_to else None
    text = f"Step time relative to {named}" if named else "Step time in ms"
    figure.supxlabel(f"{text}, median and deciles; beside it step time and peak memory", fontsize=9.5)
    return figure


def _draw_bars(axes: Any, benchmark: Benchmark, case: CaseResult) -> None:
    reference = case.find(benchmark.relative_to[0]) if benchmark.relative_to else None
    places = range(len(case.subjects))
    values = [_relative(one, reference) for one in case.subjects]
    colours = [_REFERENCE if one is reference else _BAR for one in case.subjects]
    reach = [[v.median - v.p10 for v in values], [v.p90 - v.median for v in values]]
    axes.barh(places, [v.median for v in values], color=colours, height=0.66)
    axes.errorbar([v.median for v in values], places, xerr=reach, fmt="none", ecolor="#333333", capsize=3, linewidth=1)
    for place, value, one in zip(places, values, case.subjects, strict=True):
        time = duration(spread(one.times_s).median)
        shown = f"{value.median:.2f}, {time}" if reference is not None else time
        text = f"{shown}, {size(one.memory.peak_bytes)}"
        axes.annotate(text, (value.p90, place), (6, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(list(places), [one.label for one in case.subjects], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(v.p90 for v in values))
    if reference is not None:
        axes.axvline(1.0, color="#888888", linewidth=0.9, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)


def _relative(one: SubjectResult, reference: SubjectResult | None) -> Any:
    if reference is None:
        return spread([1e3 * seconds for seconds in one.times_s])
    return ratio(one, reference)


def _curves(benchmark: Benchmark, found: Sequence[Crossing]) -> Any:
    layers = list(dict.fromkeys(one.case.layer for one in found))
    across = min(2, len(layers))
    down = math.ceil(len(layers) / across)
    figure = new_figure(5.0 * across, 3.6 * down + 0.8)
    panels = [axes for line in figure.subplots(down, across, squeeze=False, sharey=True) for axes in line]
    for axes, layer in zip(panels, layers, strict=False):
        own = sorted((one for one in found if one.case.layer == layer), key=lambda one: one.case.tokens or 0)
        _draw_curves(axes, benchmark, own)
        axes.set_title(f"{layer[0]} x {layer[1]}" if layer else "", fontsize=10)
    for axes in panels[len(layers) :]:
        axes.set_visible(False)
    panels[0].legend(fontsize=8.5, frameon=False)
    named = _reference(benchmark)
    figure.suptitle(_title(benchmark), fontsize=11, fontweight="bold")
    figure.supxlabel("Tokens", fontsize=9.5)
    figure.supylabel(f"Step time relative to {named}" if named else "Step time in ms", fontsize=9.5)
    return figure


def _draw_curves(axes: Any, benchmark: Benchmark, found: Sequence[Crossing]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    tokens = [one.case.tokens or 0 for one in found]
    for form, (colour, shape, line) in _FORMS.items():
        values = [_relative(getattr(one, form), one.case.find(_reference(benchmark))) for one in found]
        axes.plot(tokens, [v.median for v in values], color=colour, marker=shape, linestyle=line, label=form, zorder=3)
        axes.fill_between(tokens, [v.p10 for v in values], [v.p90 for v in values], color=colour, alpha=0.15)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(tokens)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value):,}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if _reference(benchmark) is not None:
        axes.axhline(1.0, color="#888888", linewidth=0.9, linestyle=":")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _title(benchmark: Benchmark) -> str:
    single = f", {benchmark.cases[0].name}" if len(benchmark.cases) == 1 else ""
    return f"{benchmark.title}{single}, {benchmark.precision.replace('_', ' ')}"


def _reference(benchmark: Benchmark) -> str | None:
    return benchmark.relative_to[0] if benchmark.relative_to else None
