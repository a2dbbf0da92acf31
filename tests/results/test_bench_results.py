"""Benchmarks rolled up: ratios within rounds, tables, pictures, the published ones and the page that shows them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from configs import ROOT

from results import bench_plot, bench_record, bench_tables
from results.bench_forms import crossings, largest_cost, switches
from results.bench_page import fill, named
from results.bench_record import Benchmark, CaseResult, Environment, StepMemory, SubjectResult, ratio, spread
from results.files import StoreError

PUBLISHED = ROOT / "results" / "published" / "bench"
PAGE = ROOT / "docs" / "BENCHMARKS.md"
MEBIBYTE = 2**20
MEMORY = StepMemory(
    frozen_bytes=10 * MEBIBYTE,
    trained_bytes=1 * MEBIBYTE,
    buffer_bytes=2 * MEBIBYTE,
    optimizer_bytes=2 * MEBIBYTE,
    input_bytes=1 * MEBIBYTE,
    gradient_bytes=1 * MEBIBYTE,
    kept_bytes=20 * MEBIBYTE,
    step_peak_bytes=24 * MEBIBYTE,
)


def subject(label: str, times: Sequence[float], **changes: Any) -> SubjectResult:
    fields: dict[str, Any] = {
        "overrides": (f"method={label}",),
        "config": {"method": {"_target_": label}},
        "compiled": False,
        "graph_breaks": None,
        "trained": 100,
        "first_step_s": 9.0,
        "memory": MEMORY,
        "flops": 700,
        "floor_units": 6.0,
    }
    return SubjectResult(label=label, times_s=tuple(times), **(fields | changes))


def case(*subjects: SubjectResult, **changes: Any) -> CaseResult:
    fields: dict[str, Any] = {"layer": None, "tokens": None, "sites": 2, "unit_flops": 100, "left_out": {}}
    return CaseResult(**({"name": "batch 4"} | fields | changes), subjects=subjects)


def benchmark(*cases: CaseResult, **changes: Any) -> Benchmark:
    place = Environment(
        device="cpu: a processor",
        cores=2,
        threads=1,
        versions={"torch": "2.9"},
        commit=None,
        dirty=None,
        command="randlora bench",
        started_at="2025-01-01T00:00:00+00:00",
    )
    fields: dict[str, Any] = {
        "name": "small",
        "title": "A small thing",
        "precision": "float32",
        "workload": {},
        "relative_to": ("full",),
        "memory_relative_to": "lora",
        "environment": place,
    }
    return Benchmark(**(fields | changes), cases=cases)


LIGHTER = dataclasses.replace(MEMORY, kept_bytes=10 * MEBIBYTE, step_peak_bytes=12 * MEBIBYTE)
FROZEN = subject("frozen", [1.0, 2.0, 4.0], trained=0, flops=500, floor_units=4.0)
FULL = subject("full", [2.0, 4.0, 8.0], trained=1000)
LORA = subject("lora", [1.5, 3.2, 5.0], memory=LIGHTER, flops=545, floor_units=4.5)
ADAPTER = subject("adapter", [3.0, 4.0, 9.0], floor_units=None, flops=800)
MODEL = benchmark(case(FROZEN, FULL, LORA, ADAPTER, left_out={"other": "ValueError: it does not fit"}))


def layer_case(tokens: int, weight: float, activation: float, auto: str) -> CaseResult:
    def form(label: str, contraction: str, seconds: float, flops: int) -> SubjectResult:
        method = {"_target_": "adapter", "rank": 2, "contraction": contraction}
        return subject(label, [seconds, 2 * seconds, 3 * seconds], config={"method": method}, flops=flops)

    times = {"weight": weight, "activation": activation}
    flops = {"weight": 800, "activation": 900}
    return case(
        subject("full", [1.0, 2.0, 3.0]),
        form("w", "weight", weight, 800),
        form("x", "activation", activation, 900),
        form("a", "auto", 1.1 * times[auto], flops[auto]),
        name=f"8 x 4, {tokens} tokens",
        layer=(8, 4),
        tokens=tokens,
    )


LAYERS = benchmark(
    layer_case(4, 3.0, 1.0, "activation"), layer_case(16, 2.0, 1.5, "weight"), layer_case(64, 1.2, 3.0, "weight")
)


def test_ratios_are_taken_within_rounds() -> None:
    # the machine was slower from round to round: medians of each would say 3.2 / 4
    found = ratio(subject("a", [1.0, 6.0, 8.0]), subject("b", [2.0, 4.0, 40.0]))
    assert found.median == 0.5
    assert found.p10 == pytest.approx(0.2 + 0.2 * 0.3)
    assert found.p90 == pytest.approx(0.5 + 0.8 * 1.0)


def test_one_round_has_no_spread() -> None:
    assert spread([3.0]) == bench_record.Spread(median=3.0, p10=3.0, p90=3.0)


def test_memory_adds_up() -> None:
    assert MEMORY.resident_bytes == 16 * MEBIBYTE
    assert MEMORY.peak_bytes == 40 * MEBIBYTE
    assert MEMORY.sum_bytes == 37 * MEBIBYTE


def cells(table: str, label: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_times_stand_beside_their_ratios() -> None:
    table = bench_tables.times_table(MODEL, MODEL.cases[0])
    assert cells(table, "Subject") == ["Subject", "Trained", "Step", "p10 to p90", "× full", "Peak memory", "× lora"]
    assert cells(table, "full")[4] == "1"
    assert cells(table, "frozen")[4] == "0.50 (0.50 to 0.50)"
    assert cells(table, "adapter") == [
        *("adapter", "100", "4000 ms", "3200 ms to 8000 ms", "1.12 (1.02 to 1.43)", "40.0 MiB", "1.429"),
    ]


def test_memory_stands_by_part() -> None:
    table = bench_tables.memory_table(MODEL, MODEL.cases[0])
    parts = ["10.0 MiB", "1.0 MiB", "2.0 MiB", "2.0 MiB", "20.0 MiB", "1.0 MiB", "37.0 MiB", "1.370"]
    assert cells(table, "adapter")[1:] == parts
    assert cells(table, "lora")[-1] == "1.000"


def test_operations_are_those_beyond_the_frozen_model() -> None:
    table = bench_tables.arithmetic_table(MODEL, MODEL.cases[0])
    assert cells(table, "frozen")[1:] == ["4.00", "4.00", "0.71", "0.71", "0.50"]
    assert cells(table, "full")[1:] == ["6.00", "6.00", "1.00", "1.00", "1.00"]
    # least: 500 + 0.5 units of 100, relative to 700
    assert cells(table, "lora")[1:] == ["4.50", "4.45", "0.79", "0.78", "0.75"]
    assert cells(table, "adapter")[1:] == ["", "7.00", "", "1.14", "1.12"]


def test_without_a_frozen_subject_or_a_reference_nothing_is_made_up() -> None:
    alone = benchmark(case(LORA), relative_to=("full",))
    assert cells(bench_tables.arithmetic_table(alone, alone.cases[0]), "lora")[1:] == ["4.50", "", "", "", ""]
    assert cells(bench_tables.times_table(alone, alone.cases[0]), "lora")[4] == ""
    none = benchmark(case(LORA), relative_to=(), memory_relative_to=None)
    assert cells(bench_tables.times_table(none, none.cases[0]), "Subject")[-1] == "Peak memory"


def test_markdown_says_where_and_what_was_left_out() -> None:
    text = bench_tables.markdown(MODEL)
    assert "batch 4; float32; cpu: a processor, 2 cores, 1 threads; torch 2.9; 3 rounds" in text
    assert "- left out: other: ValueError: it does not fit" in text
    partly = benchmark(case(FULL, left_out={"x": "ValueError: no"}), case(FULL, name="batch 8"))
    assert "- left out: x: ValueError: no (batch 4)" in bench_tables.markdown(partly)
    assert "#### batch 8" in bench_tables.markdown(partly)


def test_csv_has_a_line_per_subject_in_full_precision() -> None:
    lines = list(csv.DictReader(io.StringIO(bench_tables.csv(MODEL))))
    assert [line["subject"] for line in lines] == ["frozen", "full", "lora", "adapter"]
    assert float(lines[3]["time_relative_to_full"]) == ratio(ADAPTER, FULL).median
    assert lines[3]["floor_units"] == ""
    assert int(lines[3]["peak_bytes"]) == MEMORY.peak_bytes


def test_forms_are_compared_where_one_method_has_all_three() -> None:
    found = crossings(LAYERS)
    assert [(one.better, one.taken) for one in found] == [
        *(("activation", "activation"), ("activation", "weight"), ("weight", "weight")),
    ]
    assert found[0].cost.median == pytest.approx(1.1)
    assert found[1].cost.median == pytest.approx(1.1 * 2.0 / 1.5)
    assert largest_cost(found) is found[1]
    assert switches(found) == (
        "8 x 4, by tokens: faster is activation (4 to 16), weight (64); auto takes activation (4), weight (16 to 64)",
    )
    text = bench_tables.markdown(LAYERS)
    assert "- auto is slowest at 8 x 4, 16 tokens: 1.47 of the better form" in text
    incomplete = dataclasses.replace(LAYERS.cases[0], subjects=LAYERS.cases[0].subjects[:3])
    assert crossings(benchmark(incomplete)) == ()
    assert crossings(MODEL) == ()


def test_pictures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    assert [path.name for path in bench_plot.draw(MODEL, tmp_path / "model")] == ["small.png"]
    assert [path.name for path in bench_plot.draw(LAYERS, tmp_path / "layers")] == ["small.png"]
    both = benchmark(*MODEL.cases, *LAYERS.cases)
    assert [path.name for path in bench_plot.draw(both, tmp_path / "both")] == ["small.png", "small_crossover.png"]
    assert bench_plot.draw(benchmark(case()), tmp_path / "none") == ()


def test_a_document_reads_back_and_another_is_refused(tmp_path: Path) -> None:
    path = bench_record.write(LAYERS, tmp_path / "small.json")
    assert bench_record.read(path) == LAYERS
    body = json.loads(path.read_text(encoding="utf-8"))
    for change in ({"schema": 0}, {"cases": 3}, {"unknown": 1}):
        path.write_text(json.dumps(body | change), encoding="utf-8")
        with pytest.raises(StoreError, match="measure it again with randlora bench"):
            bench_record.read(path)
    with pytest.raises(StoreError, match="cannot read"):
        bench_record.read(tmp_path / "absent.json")


def test_a_page_is_filled_between_its_comments(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "one.md").write_text("| table |\n", encoding="utf-8")
    page = "a\n<!-- bench: one -->\nold\n<!-- end of bench -->\nb\n"
    filled = fill(page, tmp_path)
    assert filled == "a\n<!-- bench: one -->\n\n| table |\n\n<!-- end of bench -->\nb\n"
    assert fill(filled, tmp_path) == filled
    assert named(page) == ("one",)
    assert "Not measured yet." in fill(page.replace("bench: one", "bench: two"), tmp_path)
    (tmp_path / "one" / "costs.md").write_text("| costs |\n", encoding="utf-8")
    predictions = "<!-- costs: one -->\n\n| costs |\n\n<!-- end of costs -->\n"
    assert fill(filled + "<!-- costs: one -->\n<!-- end of costs -->\n", tmp_path) == filled + predictions
    assert named(filled + predictions) == ("one", "one")


PUBLISHED_NAMES = sorted(path.name for path in PUBLISHED.iterdir() if path.is_dir())


def test_the_page_shows_every_published_benchmark_as_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(PUBLISHED_NAMES) <= set(named(text))
    assert PUBLISHED_NAMES
    assert fill(text, PUBLISHED) == text


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_published_tables_are_those_of_the_published_numbers(name: str) -> None:
    published = bench_record.read(PUBLISHED / name / f"{name}.json")
    assert published.name == name
    for form, end in ((bench_tables.markdown, "md"), (bench_tables.csv, "csv")):
        assert form(published) == (PUBLISHED / name / f"{name}.{end}").read_text(encoding="utf-8")
    assert (PUBLISHED / name / f"{name}.png").is_file()
    for measured in published.cases:
        assert measured.subjects
