"""Benchmarks of answering questions as Markdown, for the terminal as well, and as CSV."""

from __future__ import annotations

import csv as csv_module
import io

from results.answer_record import PUBLISHED, AnswerBenchmark
from results.bench_record import spread
from results.bench_tables import grid


def markdown(benchmark: AnswerBenchmark) -> str:
    """Return the benchmark as GitHub Markdown: one row per way of answering."""
    place, protocol = benchmark.environment, benchmark.protocol
    rounds = len(benchmark.ways[0].seconds)
    shortest, middle, longest = benchmark.tokens
    where = (
        f"{place.device}, {place.cores} cores, {place.threads} threads; torch {place.versions.get('torch', '?')}, "
        f"transformers {place.versions.get('transformers', '?')}. {benchmark.model}; {benchmark.questions} questions "
        f"of {benchmark.dataset}, prompts of {shortest} to {longest} tokens (median {middle}); {protocol['beams']} "
        f"beams, at most {protocol['max_new_tokens']} new tokens; rounds: {rounds}; medians, deciles in brackets."
    )
    lines = []
    for way in benchmark.ways:
        rate, relative = benchmark.rate(way), benchmark.relative(way)
        ratio = f"{relative.median:.2f} ({relative.p10:.2f} to {relative.p90:.2f})"
        lines.append(
            [
                way.label,
                f"{rate.median:.2f} ({rate.p10:.2f} to {rate.p90:.2f})",
                "1" if way.label == PUBLISHED else ratio,
                "" if way.label == PUBLISHED else str(way.different),
                "" if way.label == PUBLISHED else str(way.alone),
            ]
        )
    header = ["Way", "Questions per second", "Relative", "Other answers", "Put again alone"]
    return f"{where}\n\n{grid(header, lines)}\n"


def csv(benchmark: AnswerBenchmark) -> str:
    """Return one line per way, in full precision."""
    stream = io.StringIO()
    writer = csv_module.writer(stream, lineterminator="\n")
    writer.writerow(["way", "questions", "rounds", "median_s", "questions_per_s", "relative", "different", "alone"])
    for way in benchmark.ways:
        rates = [benchmark.rate(way).median, benchmark.relative(way).median]
        numbers = [benchmark.questions, len(way.seconds), spread(way.seconds).median, *rates]
        writer.writerow([way.label, *numbers, way.different, way.alone])
    return stream.getvalue()
