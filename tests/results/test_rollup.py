from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from record_factory import MIB, by_id, plan, record_of

from results.record import Memory, Parameters, PhaseMemory, Record, Timing
from results.rollup import Table, roll_up
from results.table import TableError, TableSpec
from results.table_parser import load_table

TEXT = """
title: A small table
metric: test/top1
axes:
  method: {A: [method=a], B: [method=b], Reference: [method=reference]}
  dataset: {x: [dataset=x], y: [dataset=y]}
  seed: {1: [seed=1], 2: [seed=2]}
rows: [method]
columns: [dataset]
average: [dataset]
repeat: [seed]
references: [Reference]
"""
TOP1 = {("A", "x"): (0.6, 0.7), ("A", "y"): (0.2, 0.3), ("B", "x"): (0.8, 0.9), ("B", "y"): (0.3, 0.4)}


@pytest.fixture
def spec(tmp_path: Path) -> TableSpec:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return load_table(path)


def _records(spec: TableSpec, changes: Mapping[tuple[str, str, str], Any] | None = None) -> dict[str, Record]:
    """Return a record for every cell, with `changes` for some of them; None leaves the cell without a record."""
    records = []
    for cell in spec.cells():
        method, dataset, seed = cell.labels.values()
        change = (changes or {}).get((method, dataset, seed), {})
        if change is not None:
            top1 = TOP1.get((method, dataset), (0.99, 0.99))[int(seed) - 1]
            records.append(record_of(cell.labels, **{"top1": top1, **change}))
    return by_id(*records)


def _table(spec: TableSpec, changes: Mapping[tuple[str, str, str], Any] | None = None, **more: Any) -> Table:
    return roll_up(spec, plan(spec), _records(spec, changes), **more)


def _row(table: Table, method: str) -> Any:
    return next(row for row in table.rows if row.labels == (method,))


FAILED = {"status": "failed", "reason": "out of\nmemory", "top1": None}
SKIPPED = {"status": "skipped", "reason": "no data", "top1": None}


def test_means_and_averages(spec: TableSpec) -> None:
    table = _table(spec)
    entry = table.entry(("A",), ("x",))
    assert entry.values == {"1": 0.6, "2": 0.7}
    assert (entry.state, entry.n, entry.expected) == ("ok", 2, 2)
    assert entry.mean == pytest.approx(0.65)
    assert entry.std == pytest.approx(0.05 * 2**0.5)
    (average,) = _row(table, "A").averages
    # Within each seed first: (0.6 + 0.2) / 2 and (0.7 + 0.3) / 2.
    assert average.values == pytest.approx({"1": 0.4, "2": 0.5})
    assert average.std == pytest.approx(0.05 * 2**0.5)
    assert average.coverage == (2, 2)
    assert (table.completed, table.total, table.running) == (12, 12, 0)


@pytest.mark.parametrize(
    ("change", "both", "one"),
    [(None, "missing", "partial"), (FAILED, "failed", "partial"), (SKIPPED, "skipped", "partial")],
)
def test_a_hole_is_shown_and_never_averaged(spec: TableSpec, change: Any, both: str, one: str) -> None:
    for seeds, state in ((("1", "2"), both), (("2",), one)):
        table = _table(spec, {("A", "y", seed): change for seed in seeds})
        assert table.entry(("A",), ("y",)).state == state
        (average,) = _row(table, "A").averages
        assert (average.state, average.mean, average.std, average.values) == ("missing", None, None, {})
        assert average.coverage == (1, 2)
        assert _row(table, "B").averages[0].state == "ok"
        assert table.completed == 12 - len(seeds)
        assert table.counts["missing" if change is None else change["status"]] == len(seeds)


def test_a_partial_entry_has_the_mean_of_what_is_there(spec: TableSpec) -> None:
    entry = _table(spec, {("A", "y", "2"): None}).entry(("A",), ("y",))
    assert (entry.mean, entry.std, entry.n, entry.expected) == (0.2, None, 1, 2)


def test_reasons_are_footnotes(spec: TableSpec) -> None:
    table = _table(spec, {("A", "y", "1"): FAILED, ("A", "y", "2"): FAILED, ("B", "x", "1"): SKIPPED})
    assert table.footnotes == ("failed: out of memory", "skipped: no data")
    assert table.entry(("A",), ("y",)).footnotes == (1,)
    assert table.entry(("A",), ("y",)).reasons == ("out of memory",)
    assert table.entry(("B",), ("x",)).footnotes == (2,)


def test_a_run_without_the_metric_is_failed(spec: TableSpec) -> None:
    table = _table(spec, {("A", "y", s): {"metrics": {"test/loss": 0.1}} for s in "12"})
    assert table.entry(("A",), ("y",)).state == "failed"
    assert table.footnotes == ("failed: the run has no metric test/top1, only test/loss",)


def test_the_same_key_under_another_config_is_stale(spec: TableSpec) -> None:
    old = {"extra": "an older recipe"}
    table = _table(spec, {("A", "x", "1"): old, ("A", "x", "2"): old, ("A", "y", "1"): old})
    assert table.entry(("A",), ("x",)).state == "stale"
    assert table.entry(("A",), ("x",)).mean is None
    assert table.entry(("A",), ("y",)).state == "partial"
    assert table.counts["stale"] == 3
    # A current record wins over an old one.
    records = {**_records(spec), **_records(spec, {("A", "x", "1"): old})}
    assert roll_up(spec, plan(spec), records).counts == {"ok": 12, "failed": 0, "skipped": 0, "stale": 0, "missing": 0}


def test_a_stale_failure_does_not_count_as_failed(spec: TableSpec) -> None:
    table = _table(spec, {("A", "x", "1"): {**FAILED, "extra": 1}})
    assert table.counts["stale"] == 1
    assert table.footnotes == ()


def test_runs_under_way_are_counted(spec: TableSpec) -> None:
    records = _records(spec, {("A", "x", "1"): None})
    ids = [each.id for each in plan(spec) if each.id not in records]
    table = roll_up(spec, plan(spec), records, running=ids)
    assert table.running == 1
    assert table.entry(("A",), ("x",)).running == 1


def test_no_records_at_all(spec: TableSpec) -> None:
    table = roll_up(spec, plan(spec), {})
    assert {entry.state for row in table.rows for entry in (*row.entries, *row.averages)} == {"missing"}
    assert table.rows[0].facts.adapter_parameters is None


def test_the_planned_cells_are_those_of_the_table(spec: TableSpec) -> None:
    planned = plan(spec)
    for wrong in (planned[1:], (*planned[1:], planned[1]), (*planned, planned[0])):
        with pytest.raises(TableError, match="12 cells"):
            roll_up(spec, wrong, {})


def test_facts_are_medians_of_completed_runs(spec: TableSpec) -> None:
    def cost(adapter: int, mebibytes: int, step_s: float) -> dict[str, Any]:
        return {
            "parameters": Parameters(adapter=adapter, head=10, frozen=1),
            "memory": Memory(device="cpu", train=PhaseMemory(process_peak_bytes=mebibytes * MIB)),
            "timing": Timing(steps=9, step_median_s=step_s),
        }

    changes = {
        ("A", "x", "1"): cost(100, 5, 0.1),
        ("A", "x", "2"): cost(100, 6, 0.2),
        ("A", "y", "1"): cost(100, 9, 0.9),
        ("A", "y", "2"): {**cost(7, 99, 9.0), **FAILED},
    }
    facts = _row(_table(spec, changes), "A").facts
    assert (facts.adapter_parameters, facts.head_parameters) == (100, 10)
    assert (facts.peak_memory_bytes, facts.step_time_s, facts.whole_process) == (6 * MIB, 0.2, True)


def test_memory_is_of_the_training_on_an_accelerator_and_of_the_evaluation_without_training(spec: TableSpec) -> None:
    on_gpu = Memory(
        device="cuda",
        train=PhaseMemory(allocated_bytes=3 * MIB, process_peak_bytes=99 * MIB),
        evaluation=PhaseMemory(allocated_bytes=4 * MIB),
    )
    idle = Memory(device="cpu", evaluation=PhaseMemory(process_peak_bytes=2 * MIB))
    changes = {(m, d, s): {"memory": on_gpu if m == "A" else idle} for m in "AB" for d in "xy" for s in "12"}
    table = _table(spec, changes)
    assert _row(table, "A").facts.peak_memory_bytes == 3 * MIB
    assert _row(table, "A").facts.whole_process is False
    assert _row(table, "B").facts.peak_memory_bytes == 2 * MIB


def test_costs_on_different_devices_have_no_median(spec: TableSpec) -> None:
    records = _records(spec)
    id, record = next(iter(records.items()))
    records[id] = dataclasses.replace(record, provenance=dataclasses.replace(record.provenance, device="H100"))
    facts = _row(roll_up(spec, plan(spec), records), "A").facts
    assert (facts.peak_memory_bytes, facts.step_time_s, facts.devices) == (None, None, ("H100", "cpu"))
    assert facts.adapter_parameters is not None


def test_a_note_stands_at_the_widest_place_it_holds_for(spec: TableSpec) -> None:
    budget = {"parameters": Parameters(adapter=1, head=0, frozen=1, budget_note="cannot reach it")}
    changes: dict[tuple[str, str, str], Any] = {("B", d, s): budget for d in "xy" for s in "12"}
    changes[("A", "y", "1")] = {"notes": ("one image left out",)}
    table = _table(spec, changes)
    assert table.footnotes == ("one image left out", "cannot reach it")
    assert _row(table, "A").footnotes == ()
    assert table.entry(("A",), ("y",)).footnotes == (1,)
    assert _row(table, "B").footnotes == (2,)
    assert table.entry(("B",), ("x",)).footnotes == ()


def _marks(table: Table, column: str) -> dict[str, str | None]:
    return {row.labels[0]: table.entry(row.labels, (column,)).mark for row in table.rows}


def test_the_best_row_is_marked_without_the_references(spec: TableSpec) -> None:
    table = _table(spec)
    assert _marks(table, "x") == {"A": None, "B": "best", "Reference": None}
    assert [row.averages[0].mark for row in table.rows] == [None, "best", None]


def test_rows_within_the_noise_are_tied(spec: TableSpec) -> None:
    # A 0.65 and B 0.70, each with a standard deviation of 0.0707.
    table = _table(spec, {("B", "x", "1"): {"top1": 0.65}, ("B", "x", "2"): {"top1": 0.75}})
    assert _marks(table, "x") == {"A": "tied", "B": "best", "Reference": None}


@pytest.mark.parametrize("change", [None, {"extra": 1}, FAILED])
def test_nothing_is_the_best_of_one(spec: TableSpec, change: Any) -> None:
    table = _table(spec, {("A", "x", s): change for s in "12"})
    assert _marks(table, "x")["B"] is None
    assert _marks(table, "y")["B"] == "best"
    assert _row(table, "B").averages[0].mark is None


def test_blocks_are_compared_apart_and_the_paper_stands_beside(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text(
        """
title: Two blocks of Table 11
metric: test/top1
axes:
  data: {1 shot: [recipe.data=1], 100%: [recipe.data=1.0]}
  method: {LoRA32: [method=lora], RandLoRA6: [method=randlora]}
  dataset: {Cars: [dataset=cars], DTD: [dataset=dtd]}
rows: [data, method]
columns: [dataset]
average: [dataset]
paper: {file: results/paper/image_classification.csv, where: {paper_table: 11}, columns: {data: data_budget}}
"""
    )
    spec = load_table(path)
    top1 = dict(zip(itertools.product(spec.axes["data"], spec.axes["method"]), (0.5, 0.6, 0.8, 0.7), strict=True))
    cells = spec.cells()
    records = by_id(*(record_of(c.labels, top1=top1[c.labels["data"], c.labels["method"]]) for c in cells))
    table = roll_up(spec, plan(spec), records)
    assert [row.averages[0].mark for row in table.rows] == [None, "best", "best", None]
    entry = table.entry(("1 shot", "LoRA32"), ("DTD",))
    assert entry.paper is not None
    assert entry.difference == pytest.approx(0.5 - entry.paper)
    average = table.rows[0].averages[0]
    both = [each.paper for each in table.rows[0].entries]
    assert average.paper == pytest.approx(sum(each or 0 for each in both) / 2)
    empty = roll_up(spec, plan(spec), {}).rows[0].averages[0]
    assert (empty.paper, empty.difference) == (average.paper, None)


def test_twenty_thousand_records_take_seconds(tmp_path: Path) -> None:
    axes = {"method": 20, "dataset": 100, "seed": 10}
    lines = ["title: Large", "metric: test/top1", "rows: [method]", "columns: [dataset]", "repeat: [seed]", "axes:"]
    for axis, count in axes.items():
        labels = ", ".join(f"{number}: [{axis}={number}]" for number in range(count))
        lines.append(f"  {axis}: {{{labels}}}")
    path = tmp_path / "large.yaml"
    path.write_text("\n".join(lines))
    spec = load_table(path)
    planned = plan(spec)
    records = by_id(*(record_of(each.cell.labels, extra=index % 2 or None) for index, each in enumerate(planned)))
    start = time.process_time()
    table = roll_up(spec, planned, records)
    assert time.process_time() - start < 5
    assert (table.total, table.completed, table.counts["stale"]) == (20_000, 10_000, 10_000)
