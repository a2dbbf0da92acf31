"""Benchmarks as Markdown, for the terminal as well, and as CSV."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Sequence
from typing import Any

from results.bench_forms import crossings, largest_cost, switches
from results.bench_record import Benchmark, CaseResult, Spread, SubjectResult, ratio, spread
from results.units import duration, quantity, size

FROZEN_UNITS = 4.0  # of a frozen layer: forward, and the gradient of its input
PRECISIONS = {
    "float32": "float32",
    "bfloat16_autocast": "float32 weights under bfloat16 autocast",
    "bfloat16_weights": "bfloat16 weights",
}


def markdown(benchmark: Benchmark) -> str:
    """Return the benchmark as GitHub Markdown."""
    parts = [f"### {benchmark.title}", _where(benchmark)]
    whole = [case for case in benchmark.cases if case.layer is None]
    for case in whole:
        parts += [f"#### {case.name}"] if len(whole) > 1 else []
        parts += [times_table(benchmark, case), memory_table(benchmark, case), arithmetic_table(benchmark, case)]
    parts += [_crossover(benchmark)]
    parts += ["\n".join(f"- left out: {line}" for line in left_out(benchmark))]
    return "\n\n".join(part for part in parts if part) + "\n"


def left_out(benchmark: Benchmark) -> tuple[str, ...]:
    """Return one line per distinct reason why a subject could not run."""
    lines: dict[str, list[str]] = {}
    for case in benchmark.cases:
        for label, reason in case.left_out.items():
            lines.setdefault(f"{label}: {reason}", []).append(case.name)
    return tuple(
        line if len(names) == len(benchmark.cases) else f"{line} ({', '.join(names)})" for line, names in lines.items()
    )


def times_table(benchmark: Benchmark, case: CaseResult) -> str:
    """Return step time and peak memory of every subject, and their ratios to the references."""
    header = ["Subject", "Trained", "Step", "p10 to p90", *(f"× {one}" for one in benchmark.relative_to), "Peak memory"]
    reference = case.find(benchmark.memory_relative_to)
    header += [f"× {benchmark.memory_relative_to}"] if benchmark.memory_relative_to else []
    lines = []
    for one in case.subjects:
        time = spread(one.times_s)
        line = [_label(one), quantity(one.trained), duration(time.median)]
        line += [f"{duration(time.p10)} to {duration(time.p90)}"]
        line += [_ratio(one, case.find(label)) for label in benchmark.relative_to]
        line += [size(one.memory.peak_bytes)]
        if benchmark.memory_relative_to:
            line += ["" if reference is None else f"{one.memory.peak_bytes / reference.memory.peak_bytes:.3f}"]
        lines.append(line)
    return grid(header, lines)


def memory_table(benchmark: Benchmark, case: CaseResult) -> str:
    """Return the memory of every subject by part, and the sum of the parts."""
    named = benchmark.memory_relative_to
    header = ["Memory", "Frozen", "Trained", "Buffers", "Optimizer", "Kept for backward", "Gradients", "Sum"]
    header += [f"× {named}"] if named else []
    reference = case.find(named)
    lines = []
    for one in case.subjects:
        m = one.memory
        parts = (m.frozen_bytes, m.trained_bytes, m.buffer_bytes, m.optimizer_bytes, m.kept_bytes, m.gradient_bytes)
        line = [_label(one), *(size(part) if part else "0" for part in (*parts, m.sum_bytes))]
        if named:
            line += ["" if reference is None else f"{m.sum_bytes / reference.memory.sum_bytes:.3f}"]
        lines.append(line)
    return grid(header, lines)


def arithmetic_table(benchmark: Benchmark, case: CaseResult) -> str:
    """Return the operations of the adapted weights, least and counted, and the step time they let expect."""
    named = benchmark.relative_to[0] if benchmark.relative_to else None
    reference = case.find(named)
    header = ["Operations", "Least", "Counted"]
    header += [f"Least × {named}", f"Counted × {named}", f"Time × {named}"] if named else []
    lines = []
    for one in case.subjects:
        counted = counted_units(case, one)
        least = least_flops(case, one)
        line = [_label(one), _number(one.floor_units), _number(counted)]
        if named and reference is not None:
            line += ["" if least is None else f"{least / reference.flops:.2f}"]
            line += [f"{one.flops / reference.flops:.2f}", f"{ratio(one, reference).median:.2f}"]
        elif named:
            line += ["", "", ""]
        lines.append(line)
    return grid(header, lines)


def counted_units(case: CaseResult, subject: SubjectResult) -> float | None:
    """Return the counted operations per adapted weight: 4 of the frozen layer and what the step does beyond it."""
    frozen = _frozen(case)
    return None if frozen is None else FROZEN_UNITS + (subject.flops - frozen.flops) / case.unit_flops


def least_flops(case: CaseResult, subject: SubjectResult) -> float | None:
    """Return the operations of the step if the adapted weights took their least and all else what it takes frozen."""
    frozen = _frozen(case)
    if frozen is None or subject.floor_units is None:
        return None
    return frozen.flops + (subject.floor_units - FROZEN_UNITS) * case.unit_flops


def csv(benchmark: Benchmark) -> str:
    """Return one line per case and subject, in full precision; what does not exist is empty."""
    lines = [_csv_line(benchmark, case, one) for case in benchmark.cases for one in case.subjects]
    stream = io.StringIO()
    writer = csv_module.DictWriter(stream, fieldnames=list(lines[0]) if lines else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _csv_line(benchmark: Benchmark, case: CaseResult, one: SubjectResult) -> dict[str, Any]:
    time, memory = spread(one.times_s), one.memory
    line: dict[str, Any] = {
        "case": case.name,
        "subject": one.label,
        "compiled": one.compiled,
        "graph_breaks": one.graph_breaks,
        "trained": one.trained,
        "rounds": len(one.times_s),
        "step_median_s": time.median,
        "step_p10_s": time.p10,
        "step_p90_s": time.p90,
        "first_step_s": one.first_step_s,
    }
    for label in benchmark.relative_to:
        reference = case.find(label)
        line[f"time_relative_to_{label}"] = None if reference is None else ratio(one, reference).median
    line |= {"peak_bytes": memory.peak_bytes, "sum_bytes": memory.sum_bytes}
    line |= {name: getattr(memory, name) for name in memory.__dataclass_fields__}
    line |= {"flops": one.flops, "floor_units": one.floor_units, "counted_units": counted_units(case, one)}
    return line


def _crossover(benchmark: Benchmark) -> str:
    found = crossings(benchmark)
    if not found:
        return ""
    named = benchmark.relative_to[0] if benchmark.relative_to else None
    header = ["Layer", "Tokens", "Weight form", "Activation form", "auto", "auto takes", "auto / better"]
    header += [f"auto × {named}"] if named else []
    lines = []
    for one in found:
        assert one.case.layer is not None
        line = [f"{one.case.layer[0]} x {one.case.layer[1]}", f"{one.case.tokens:,}"]
        line += [duration(spread(each.times_s).median) for each in (one.weight, one.activation, one.auto)]
        line += [one.taken or "neither", _spread(one.cost)]
        line += [_ratio(one.auto, one.case.find(named))] if named else []
        lines.append(line)
    worst = largest_cost(found)
    assert worst is not None
    cost = f"auto is slowest at {worst.case.name}: {worst.cost.median:.2f} of the better form"
    return grid(header, lines) + "\n\n" + "\n".join(f"- {line}" for line in (*switches(found), cost))


def _where(benchmark: Benchmark) -> str:
    place = benchmark.environment
    rounds = sorted({len(one.times_s) for case in benchmark.cases for one in case.subjects})
    counted = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}" if rounds else "no"
    single = f"{benchmark.cases[0].name}; " if len(benchmark.cases) == 1 else ""
    return (
        f"{single}{PRECISIONS.get(benchmark.precision, benchmark.precision)}; {place.device}, {place.cores} cores, "
        f"{place.threads} threads; torch {place.versions.get('torch', '?')}; {counted} rounds; "
        "medians, deciles in brackets."
    )


def _frozen(case: CaseResult) -> SubjectResult | None:
    return next((one for one in case.subjects if one.trained == 0 and not one.compiled), None)


def _label(one: SubjectResult) -> str:
    return f"{one.label} ({one.graph_breaks} graph breaks)" if one.graph_breaks else one.label


def _ratio(one: SubjectResult, reference: SubjectResult | None) -> str:
    if reference is None:
        return ""
    return "1" if one is reference else _spread(ratio(one, reference))


def _spread(value: Spread) -> str:
    return f"{value.median:.2f} ({value.p10:.2f} to {value.p90:.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left; nothing where there are no lines."""
    from tabulate import tabulate

    if not lines:
        return ""
    alignment = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(lines, header, tablefmt="pipe", colalign=alignment, disable_numparse=True)
