"""Benchmarks of sweeps as Markdown, for the terminal as well, and as CSV."""

from __future__ import annotations

import csv as csv_module
import io
import statistics

from results.bench_record import Spread, spread
from results.bench_tables import grid
from results.overhead_record import Length, OverheadBenchmark, Reading, WayResult
from results.units import size

CSV_HEADER = (
    "steps",
    "way",
    "runs",
    "rounds",
    "median_s",
    "per_hour",
    "relative",
    "steady_per_hour",
    "steady_relative",
    "used_median_s",
    "inside_median_s",
    "inside_p90_s",
    "outside_median_s",
    "outside_p90_s",
)


def markdown(benchmark: OverheadBenchmark) -> str:
    """Return the benchmark as GitHub Markdown: runs per hour, what a run costs beside them, and reading records."""
    parts = [_where(benchmark)]
    for length in benchmark.lengths:
        parts += [f"#### Runs of {length.steps} steps", _ways(length)]
    parts += [f"#### Reading {benchmark.records:,} records ({size(benchmark.record_bytes)})", _readings(benchmark)]
    return "\n\n".join(parts) + "\n"


def csv(benchmark: OverheadBenchmark) -> str:
    """Return one line per number of steps and way and one per command, in full precision; what was not told is empty.

    For a command, `median_s` is that of reading what was read before.
    """
    stream = io.StringIO()
    writer = csv_module.writer(stream, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for length in benchmark.lengths:
        writer.writerows(_csv_line(length, way) for way in length.ways)
    for one in benchmark.readings:
        for what, seconds in (("first", one.first_s), ("again", one.again_s)):
            line = ["", f"{one.command} ({what})", benchmark.records, len(seconds), statistics.median(seconds)]
            writer.writerow(line + [""] * (len(CSV_HEADER) - len(line)))
    return stream.getvalue()


def _where(benchmark: OverheadBenchmark) -> str:
    place = benchmark.environment
    rounds = max(len(way.seconds) for length in benchmark.lengths for way in length.ways)
    runs = len(benchmark.methods) * len(benchmark.datasets)
    return (
        f"{place.device}, {place.cores} cores; torch {place.versions.get('torch', '?')}; load before: "
        f"{benchmark.load:.1f}. {', '.join(benchmark.methods)} on {', '.join(benchmark.datasets)}, "
        f"{runs * benchmark.seeds} runs ({benchmark.seeds} seeds), where each has a process of its own "
        f"{runs * benchmark.seeds_alone}; `{' '.join(benchmark.fixed)}`. Rounds: {rounds}; medians"
        + (", deciles in brackets." if rounds > 1 else ".")
    )


def _ways(length: Length) -> str:
    header = ["Way", "Runs per hour", "Relative", "Many runs: per hour", "Relative"]
    header += ["Training and evaluation", "Rest, as recorded", "Rest, in all"]
    lines = [
        [
            way.label,
            _ranged(way.per_hour, ",.0f", alone=len(way.seconds) == 1),
            _ranged(length.relative(way), ".2f", alone=len(way.seconds) == 1),
            _number(way.steady_per_hour, ",.0f"),
            _number(length.steady_relative(way), ".2f"),
            f"{statistics.median(way.used_s):.2f} s",
            _rest(way.inside_s),
            _rest(way.outside_s),
        ]
        for way in length.ways
    ]
    return grid(header, lines)


def _ranged(value: Spread, form: str, *, alone: bool) -> str:
    """Return a median with its deciles, of one round the one number there is."""
    median, p10, p90 = (format(one, form) for one in (value.median, value.p10, value.p90))
    return median if alone else f"{median} ({p10} to {p90})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _rest(seconds: tuple[float, ...]) -> str:
    """Return median and last decile of what a run costs beside training and evaluation, nothing where none was told."""
    found = _spread(seconds)
    return "" if found is None else f"{found.median:.2f} s (to {found.p90:.2f})"


def _readings(benchmark: OverheadBenchmark) -> str:
    return grid(["Command", "First", "Again"], [_reading(one) for one in benchmark.readings])


def _reading(one: Reading) -> list[str]:
    return [f"`{one.command}`", *(f"{statistics.median(seconds):.1f} s" for seconds in (one.first_s, one.again_s))]


def _csv_line(length: Length, way: WayResult) -> list[object]:
    inside, outside = _spread(way.inside_s), _spread(way.outside_s)
    rates: list[float | None] = [spread(way.seconds).median, way.per_hour.median, length.relative(way).median]
    rates += [way.steady_per_hour, length.steady_relative(way)]
    rest = [number for one in (inside, outside) for number in ((one.median, one.p90) if one else ("", ""))]
    used = statistics.median(way.used_s)
    return [length.steps, way.label, way.runs, len(way.seconds), *rates, used, *rest]


def _spread(seconds: tuple[float, ...]) -> Spread | None:
    return spread(seconds) if seconds else None
