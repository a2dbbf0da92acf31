"""Benchmarks of training input as Markdown, for the terminal as well, and as CSV."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Callable, Sequence

from results.bench_record import spread
from results.bench_tables import grid
from results.input_record import CONSTANT, FeedResult, InputBenchmark, InputCase
from results.units import percent


def markdown(benchmark: InputBenchmark) -> str:
    """Return the benchmark as GitHub Markdown: training throughput by way of feeding, then the batches alone."""
    place = benchmark.environment
    rounds = sorted({len(feed.batch_s) for case in benchmark.cases for feed in case.feeds})
    counted = "no" if not rounds else f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    where = (
        f"{place.device}, {place.cores} cores, {place.threads} threads; torch {place.versions.get('torch', '?')}; "
        f"{counted} rounds of {benchmark.steps} batches; medians, deciles in brackets."
    )
    training = [case for case in benchmark.cases if case.kind == "training"]
    pixels = [case for case in benchmark.cases if case.kind == "pixels"]
    parts = [where]
    if training:
        batches = ", ".join(dict.fromkeys(str(case.batch_size) for case in training))
        parts += [f"Training of {benchmark.model}, batch {batches}. Images per second relative to a constant batch:"]
        parts += [_table(training, _relative), "Images per second:", _table(training, _rate)]
        parts += ["Waiting for the batch, share of the step:", _table(training, _waiting)]
    if pixels:
        parts += ["Batches alone, images per second:", _table(pixels, _rate)]
    return "\n\n".join(parts) + "\n"


def csv(benchmark: InputBenchmark) -> str:
    """Return one line per case and feed, in full precision."""
    stream = io.StringIO()
    writer = csv_module.writer(stream, lineterminator="\n")
    columns = ["kind", "dataset", "size", "batch_size", "images", "feed", "rounds", "batch_median_s", "wait_median_s"]
    writer.writerow([*columns, "images_per_s", "relative_to_constant"])
    for case in benchmark.cases:
        for feed in case.feeds:
            relative = case.relative(feed)
            line = [case.kind, case.dataset, case.size, case.batch_size, case.images, feed.label, len(feed.batch_s)]
            line += [spread(feed.batch_s).median, spread(feed.wait_s).median, case.rate(feed).median]
            writer.writerow([*line, None if relative is None else relative.median])
    return stream.getvalue()


def _table(cases: Sequence[InputCase], cell: Callable[[InputCase, FeedResult], str]) -> str:
    """Return a table with one row per way of feeding and one column per case."""
    labels = list(dict.fromkeys(feed.label for case in cases for feed in case.feeds))
    lines = []
    for label in labels:
        found = [(case, next((feed for feed in case.feeds if feed.label == label), None)) for case in cases]
        lines.append([label, *("" if feed is None else cell(case, feed) for case, feed in found)])
    return grid(["Feed", *map(_heading, cases)], lines)


def _heading(case: InputCase) -> str:
    width, height = case.source_pixels
    return case.dataset if case.kind == "training" else f"{case.dataset}, {width} x {height} to {case.size}"


def _relative(case: InputCase, feed: FeedResult) -> str:
    found = case.relative(feed)
    if found is None or feed.label == CONSTANT:
        return "1"
    return f"{found.median:.3f} ({found.p10:.3f} to {found.p90:.3f})"


def _rate(case: InputCase, feed: FeedResult) -> str:
    found = case.rate(feed)
    return f"{found.median:,.0f} ({found.p10:,.0f} to {found.p90:,.0f})"


def _waiting(case: InputCase, feed: FeedResult) -> str:
    shares = [wait / whole for wait, whole in zip(feed.wait_s, feed.batch_s, strict=True)]
    return f"{percent(spread(shares).median)} %"
