"""Tables beside the paper's numbers: verdicts, blocks, shares, labels without runs, parts of tables, pictures."""

from __future__ import annotations

import csv as csv_module
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from record_factory import MIB, by_id, plan, record_of

from results import render
from results.curves import lines_of
from results.record import Memory, Parameters, PhaseMemory, Record, Timing
from results.rollup import Table, roll_up
from results.table import TableError, TableSpec
from results.table_parser import load_table
from results.verdict import half_width, judge, student_quantile

TEXT = """
title: Lines of Table 11
metric: test/top1
axes:
  dataset: {Cars: [dataset=cars], DTD: [dataset=dtd]}
  data: {16 shots: [recipe.shots=16], 100%: [recipe.shots=null]}
  method: {LoRA-32: [method=lora], FT: [method=full_ft], Prompts: paper}
  seed: {1: [seed=1], 2: [seed=2], 3: [seed=3]}
rows: [data, method]
columns: [dataset]
average: [dataset]
repeat: [seed]
layout: blocks
footnotes:
  - {text: Of rows., where: {method: [FT]}}
  - {text: Of a column., where: {dataset: [DTD]}}
  - {text: Of an entry., where: {dataset: [DTD], data: [100%], method: [LoRA-32]}}
  - {text: Of averages., where: {data: [16 shots]}, on: average}
paper:
  file: results/paper/image_classification.csv
  where: {paper_table: 11}
  columns: {data: data_budget}
  labels: {method: {LoRA-32: LoRA32}}
plot:
  kind: against_data
  along: data
  memory: {file: results/paper/vram_gb.csv, where: {"": ViT-B/32 V+L}, labels: {LoRA-32: LoRA-32, FT: FT}}
"""
PAPER = {("16 shots", "Cars"): 0.696, ("16 shots", "DTD"): 0.648, ("100%", "Cars"): 0.773, ("100%", "DTD"): 0.767}
"""LoRA-32 in Table 11."""


def write(folder: Path, text: str, name: str = "small") -> TableSpec:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return load_table(path)


@pytest.fixture
def spec(tmp_path: Path) -> TableSpec:
    return write(tmp_path, TEXT)


def filled(spec: TableSpec, tops: dict[tuple[str, str, str], tuple[float, ...]]) -> Table:
    """Return the table with these accuracies by data, method and dataset, one per seed."""
    records = []
    for cell in spec.cells():
        data, method, dataset, seed = (cell.labels[axis] for axis in ("data", "method", "dataset", "seed"))
        values = tops.get((data, method, dataset), ())
        if int(seed) <= len(values):
            records.append(record_of(cell.labels, top1=values[int(seed) - 1]))
    return roll_up(spec, plan(spec), by_id(*records))


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_quantiles_of_student_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, abs=1e-4)
    assert student_quantile(freedom, level=0.5) < student_quantile(freedom, level=0.9) < quantile


def test_the_interval_is_that_of_one_more_run_and_the_rounding() -> None:
    expected = 4.3027 * 0.01 * (1 + 1 / 3) ** 0.5 + 0.0005
    assert half_width(0.01, 3, rounding=0.0005) == pytest.approx(expected, abs=1e-6)
    assert half_width(None, 1, rounding=0.0005) is None
    assert (judge(None, None), judge(0.1, None)) == ("not run", "no spread")
    assert (judge(-0.01, 0.01), judge(0.0101, 0.01)) == ("reproduced", "outside")


def test_a_table_judges_each_number_of_the_paper(spec: TableSpec) -> None:
    table = filled(
        spec,
        {
            ("16 shots", "LoRA-32", "Cars"): (0.69, 0.70, 0.695),
            ("16 shots", "LoRA-32", "DTD"): (0.70, 0.701, 0.702),
            ("100%", "LoRA-32", "Cars"): (0.773, 0.773),
        },
    )
    entries = {column: table.entry(("16 shots", "LoRA-32"), (column,)) for column in ("Cars", "DTD")}
    assert {column: entry.verdict for column, entry in entries.items()} == {"Cars": "reproduced", "DTD": "outside"}
    assert entries["Cars"].interval == half_width(entries["Cars"].std, 3, rounding=0.0005)
    partial = table.entry(("100%", "LoRA-32"), ("Cars",))
    assert (partial.state, partial.verdict) == ("partial", "not run")
    assert dict(table.verdicts) == {"reproduced": 1, "outside": 1, "no spread": 0, "not run": 6}
    assert "Against the paper's 8 numbers: 1 reproduced, 1 outside, 0 no spread, 6 not run." in render.markdown(table)


def test_one_seed_gets_no_verdict(tmp_path: Path) -> None:
    one = write(tmp_path, TEXT.replace("{1: [seed=1], 2: [seed=2], 3: [seed=3]}", "{1: [seed=1]}"))
    table = filled(one, {("16 shots", "LoRA-32", "Cars"): (0.5,)})
    assert table.entry(("16 shots", "LoRA-32"), ("Cars",)).verdict == "no spread"
    text = render.markdown(table)
    assert "50.0 [69.6, −19.6]" in text
    assert "there is no spread to judge it by" in text


def test_averages_are_compared_over_what_both_have(spec: TableSpec) -> None:
    table = filled(spec, {("16 shots", "LoRA-32", "Cars"): (0.70, 0.70, 0.70)})
    row = next(row for row in table.rows if row.labels == ("16 shots", "LoRA-32"))
    (average,) = row.averages
    assert (average.mean, average.difference, average.coverage) == (None, None, (1, 2))
    assert average.common is not None
    assert (average.common.n, average.common.ours, average.common.paper) == (1, pytest.approx(0.7), 0.696)
    assert "· [67.2, +0.4 over 1 of 2]" in render.markdown(table)
    lines = list(csv_module.DictReader(io.StringIO(render.csv(table))))
    (line,) = (line for line in lines if (line["data"], line["method"], line["dataset"]) == ("16 shots", "LoRA-32", ""))
    assert (line["mean"], line["common_n"], line["verdict"]) == ("", "1", "not run")
    assert float(line["common_difference"]) == pytest.approx(0.004)


def test_blocks_have_an_overview_and_one_part_each(spec: TableSpec) -> None:
    text = render.markdown(filled(spec, {}))
    assert [line for line in text.splitlines() if line.startswith("#### ")] == [
        *("#### Averages over dataset", "#### 16 shots", "#### 100%"),
    ]
    assert text.count("| Dataset ") == 2
    short = render.markdown(filled(spec, {}).averages_only())
    assert short.count("#### ") == 1
    assert "Against the paper's 8 numbers" in short
    latex = render.latex(filled(spec, {}))
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == 3
    assert latex.count("\\begin{tabular}{lrrr}") == 2


def test_a_block_of_many_rows_is_split(tmp_path: Path) -> None:
    many = ", ".join(f"M{n}: [method=lora, method.rank={n}]" for n in range(1, 12))
    text = TEXT[: TEXT.index("footnotes:")].replace("FT: [method=full_ft], Prompts: paper", many)
    rendered = render.markdown(filled(write(tmp_path, text), {}))
    assert "#### 100% (1 of 2)" in rendered
    assert "#### 100% (2 of 2)" in rendered


def test_footnotes_stand_where_they_belong(spec: TableSpec) -> None:
    table = filled(spec, {})
    number = {text: index for index, text in enumerate(table.footnotes, 1)}
    assert [row.labels for row in table.rows if number["Of rows."] in row.footnotes] == [
        ("16 shots", "FT"),
        ("100%", "FT"),
    ]
    assert table.column_notes == ((), (number["Of a column."],))
    marked = [(row.labels, entry.footnotes) for row in table.rows for entry in row.entries if entry.footnotes]
    assert marked == [(("100%", "LoRA-32"), (number["Of an entry."],))]
    assert all(
        row.averages[0].footnotes == ((number["Of averages."],) if row.labels[0] == "16 shots" else ())
        for row in table.rows
    )


def test_labels_of_the_paper_alone_have_no_runs(spec: TableSpec) -> None:
    assert {cell.labels["method"] for cell in spec.cells()} == {"LoRA-32", "FT"}
    table = filled(spec, {})
    assert table.total == 2 * 2 * 2 * 3
    row = next(row for row in table.rows if row.labels == ("100%", "Prompts"))
    assert {entry.state for entry in (*row.entries, *row.averages)} == {"paper"}
    assert {entry.verdict for entry in row.entries} == {None}


def test_a_part_of_a_table_is_a_table_of_its_own(spec: TableSpec) -> None:
    part = spec.select({"dataset": ["DTD"], "data": ["100%"]})
    assert len(part.cells()) == 2 * 3
    table = filled(part, {("100%", "LoRA-32", "DTD"): (0.767, 0.767, 0.767)})
    (average,) = table.rows[0].averages
    assert (average.paper, average.verdict) == (pytest.approx(PAPER["100%", "DTD"]), "reproduced")
    assert "Only dataset DTD. Only data 100%." in render.markdown(table)
    with pytest.raises(TableError, match=r"no axis 'date'; valid: dataset, data, method, seed"):
        spec.select({"date": ["100%"]})
    with pytest.raises(TableError, match=r"no label '10%'; valid: 16 shots, 100%"):
        spec.select({"data": ["10%"]})


def test_numbers_of_averages_do_not_fit_a_part_of_them(tmp_path: Path) -> None:
    paper = "paper: {file: results/paper/figure1.csv, where: {panel: a}, value: accuracy_percent, of: averages, "
    paper += "same_for: [data], columns: {method: label}, labels: {method: {FT: LoRA-8}}}\n"
    spec = write(tmp_path, TEXT[: TEXT.index("footnotes:")] + paper)
    assert filled(spec, {}).rows[0].averages[0].paper == pytest.approx(0.9035)
    assert filled(spec, {}).rows[0].entries[0].paper is None
    assert filled(spec.select({"dataset": ["DTD"]}), {}).rows[0].averages[0].paper is None
    assert filled(spec.select({"data": ["100%"]}), {}).rows[0].averages[0].paper == pytest.approx(0.9035)


COST = """
title: Shares
metric: cost/step_s
axes:
  method: {LoRA: [method=lora], FT: [method=full_ft]}
  dataset: {B: [dataset=b], L: [dataset=l]}
  seed: {1: [seed=1], 2: [seed=2]}
rows: [dataset]
columns: [method]
repeat: [seed]
relative: {method: FT}
facts: []
"""


def costly(labels: Any, *, step_s: float, peak: int | None = None, device: str = "cuda") -> Record:
    phase = PhaseMemory(allocated_bytes=peak) if peak else PhaseMemory(process_peak_bytes=MIB)
    record = record_of(labels, timing=Timing(steps=9, step_median_s=step_s), memory=Memory(device=device, train=phase))
    return dataclasses.replace(record, provenance=dataclasses.replace(record.provenance, device=device))


def test_costs_are_shares_of_the_reference_of_the_same_repeat(tmp_path: Path) -> None:
    spec = write(tmp_path, COST)
    records = []
    for cell in spec.cells():
        base = 0.1 if cell.labels["seed"] == "1" else 0.2
        step_s = base if cell.labels["method"] == "FT" else base * (0.8 if cell.labels["seed"] == "1" else 0.9)
        if cell.labels != {"method": "FT", "dataset": "L", "seed": "2"}:
            records.append(costly(cell.labels, step_s=step_s))
    table = roll_up(spec, plan(spec), by_id(*records))
    assert table.entry(("B",), ("LoRA",)).values == pytest.approx({"1": 0.8, "2": 0.9})
    assert table.entry(("B",), ("FT",)).values == pytest.approx({"1": 1.0, "2": 1.0})
    assert table.entry(("L",), ("LoRA",)).state == "partial"
    assert "% of FT" in render.markdown(table)
    with pytest.raises(TableError, match="leaves out FT"):
        spec.select({"method": ["LoRA"]})


def test_costs_of_two_machines_or_of_a_cpu_are_not_compared(tmp_path: Path) -> None:
    spec = write(tmp_path, COST)
    records = [
        costly(c.labels, step_s=0.1, device="cuda" if c.labels["method"] == "FT" else "cpu") for c in spec.cells()
    ]
    table = roll_up(spec, plan(spec), by_id(*records))
    assert table.entry(("B",), ("LoRA",)).state == "failed"
    assert "measured on cpu, what it is relative to on cuda" in table.footnotes[0]
    spec = write(tmp_path, COST.replace("cost/step_s", "cost/train_bytes"))
    table = roll_up(spec, plan(spec), by_id(*(costly(c.labels, step_s=0.1, device="cpu") for c in spec.cells())))
    assert {entry.mean for row in table.rows for entry in row.entries} == {None}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layout: blocks", "layout: block", "layout does not know 'block'; it takes rows, blocks"),
        ("metric: test/top1", "metric: cost/steps", "metric does not know 'cost/steps'; it takes cost/step_s"),
        ("metric: test/top1", "metric: cost/step_s", "say under relative what it is a share of"),
        ("layout: blocks", "relative: {method: DoRA}", r"relative\.method does not know 'DoRA'"),
        ("where: {method: [FT]}", "where: {methods: [FT]}", r"footnotes\.where does not know 'methods'"),
        ("where: {method: [FT]}", "where: {method: [FTT]}", r"footnotes\.where\.method does not know 'FTT'"),
        ("on: average", "on: averages", r"footnotes\.on does not know 'averages'; it takes cell, average"),
        ("kind: against_data", "kind: against_date", "plot does not know 'against_date'; kind is one of"),
        ("along: data", "along: method", "plot does not know 'method'; along is a row axis before the last"),
        ("LoRA-32: LoRA-32, FT: FT}}", "LoRA-32: LoRA}}", "plot does not know 'LoRA'; columns of the CSV"),
        (
            "columns: {data: data_budget}",
            "columns: {data: data_budget}\n  of: average",
            "paper does not know 'average'",
        ),
        ("columns: {data: data_budget}", "columns: {data: data_budget}\n  across: date", "paper does not know 'date'"),
        ("columns: {data: data_budget}", "columns: {data: data_budget}\n  error: x", "error must be a number"),
        ("layout: blocks", "layout: blocks\nalso: [{where: {data: [100%]}}]", "also needs where, overrides in each"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(TableError, match=message):
        write(tmp_path, TEXT.replace(old, new, 1))


def test_further_overrides_belong_to_their_cells_alone(tmp_path: Path) -> None:
    also = "also: [{where: {method: [FT], data: [100%]}, overrides: [recipe.micro_batch_size=32]}]\n"
    cells = write(tmp_path, TEXT + also).cells()
    changed = [cell.labels for cell in cells if "recipe.micro_batch_size=32" in cell.overrides]
    assert len(changed) == 2 * 3
    assert all((labels["method"], labels["data"]) == ("FT", "100%") for labels in changed)


def test_a_table_can_be_laid_out_like_another(tmp_path: Path) -> None:
    write(tmp_path, TEXT, "base")
    spec = write(tmp_path, "title: Another\nlike: base\naxes: {method: {A: [method=a]}}\n", "another")
    assert (spec.rows, spec.layout, list(spec.axes), list(spec.axes["method"])) == (
        *(("data", "method"), "blocks", ["dataset", "data", "method", "seed"], ["A"]),
    )
    assert (spec.paper, spec.plot, spec.footnotes) == (None, None, ())
    with pytest.raises(TableError, match="itself like another"):
        write(tmp_path, "title: Third\nlike: another\naxes: {}\n", "third")
    with pytest.raises(TableError, match="no table 'basis'"):
        write(tmp_path, "title: Third\nlike: basis\naxes: {}\n", "third")


def test_lines_hold_ours_and_the_papers(spec: TableSpec, tmp_path: Path) -> None:
    tops = {("100%", "LoRA-32", dataset): (0.7, 0.8, 0.9) for dataset in ("Cars", "DTD")}
    lines = {line.name: line for line in lines_of(filled(spec, tops))}
    lora = lines["LoRA-32"]
    assert [(round(point.x), point.top1, point.std) for point in lora.ours] == [
        (1, pytest.approx(80), pytest.approx(10))
    ]
    assert [point.top1 for point in lora.paper] == pytest.approx([67.2, 77.0])
    assert lora.legend == "LoRA-32  (paper 6.8 GB)"
    assert (lines["FT"].ours, len(lines["FT"].paper)) == ((), 2)
    assert (lines["Prompts"].ours, lines["Prompts"].paper) == ((), ())
    written = render.write_all(filled(spec, {}), tmp_path / "out", "small")
    assert (tmp_path / "out" / "small.png") in written


def test_lines_against_parameters_stand_where_each_side_counts(tmp_path: Path) -> None:
    text = TEXT[: TEXT.index("footnotes:")].replace("FT: [method=full_ft], Prompts: paper", "LoRA-8: [method=lora8]")
    text += """
paper: {file: results/paper/figure1.csv, where: {panel: a}, value: accuracy_percent, of: averages, same_for: [data],
        columns: {method: label}}
plot:
  kind: against_parameters
  lines: {LoRA: [LoRA-8, LoRA-32]}
  parameters: {file: results/paper/figure1.csv, where: {panel: a}, key: label, value: parameters}
"""
    spec = write(tmp_path, text).select({"data": ["100%"]})
    counts = Parameters(adapter=5_000, head=0, frozen=9)
    records = [record_of(cell.labels, top1=0.5, parameters=counts) for cell in spec.cells()]
    (line,) = lines_of(roll_up(spec, plan(spec), by_id(*records)))
    assert [point.x for point in line.paper] == [1_030_000, 4_130_000]
    assert [point.x for point in line.ours] == [5_000, 5_000]
    (line,) = lines_of(roll_up(spec, plan(spec), {}))
    assert line.ours == ()
