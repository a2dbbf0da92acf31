from __future__ import annotations

import csv as csv_module
import io
import json as json_module
from pathlib import Path
from typing import Any

import pytest
from record_factory import by_id, plan, record_of

from results import render
from results.files import StoreError
from results.plot import _draw_panel, _panels, _Point, _write_labels, accuracy_against_parameters
from results.record import Parameters
from results.rollup import Table, roll_up
from results.table import TableError, TableSpec
from results.table_parser import load_table
from results.units import duration, quantity, size

TEXT = """
title: A small_table | 50% & more
metric: test/top1
axes:
  method: {Zero-shot: [method=zero_shot], LoRA: [method=lora], NoLA: [method=nola], RandLoRA: [method=randlora]}
  dataset: {MNIST: [dataset=mnist], EuroSAT: [dataset=eurosat]}
  seed: {1: [seed=1], 2: [seed=2]}
rows: [method]
columns: [dataset]
average: [dataset]
repeat: [seed]
references: [Zero-shot]
"""
TOP1 = {"Zero-shot": 0.3, "LoRA": 0.7, "NoLA": 0.65, "RandLoRA": 0.873}
COUNT = {"Zero-shot": 0, "LoRA": 73_728, "NoLA": 73_000, "RandLoRA": 72_100}


@pytest.fixture
def spec(tmp_path: Path) -> TableSpec:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return load_table(path)


def _table(spec: TableSpec, *, holes: bool = False) -> Table:
    records = []
    for cell in spec.cells():
        method, dataset, seed = cell.labels.values()
        changes: dict[str, Any] = {"parameters": Parameters(adapter=COUNT[method], head=0, frozen=9)}
        if holes and (method, dataset) == ("LoRA", "MNIST"):
            changes |= {"status": "failed", "reason": "out of_memory", "top1": None}
        if holes and (method, dataset) == ("NoLA", "MNIST"):
            changes["extra"] = "older"
        if holes and (method, seed) == ("Zero-shot", "2"):
            continue
        if holes and (method, dataset) == ("RandLoRA", "MNIST"):
            continue
        records.append(record_of(cell.labels, **{"top1": TOP1[method] + 0.004 * int(seed), **changes}))
    return roll_up(spec, plan(spec), by_id(*records))


def _cells(markdown: str, label: str) -> list[str]:
    (line,) = (line for line in markdown.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown(spec: TableSpec) -> None:
    text = render.markdown(_table(spec))
    assert text.startswith("### A small_table \\| 50% & more\n")
    assert _cells(text, "RandLoRA") == [
        *("RandLoRA", "**87.9 ± 0.3**", "**87.9 ± 0.3**", "**87.9 ± 0.3**", "72.1 k", "0", "700 MiB", "12.0 ms"),
    ]
    assert _cells(text, "LoRA")[1:4] == ["70.6 ± 0.3"] * 3
    assert text.endswith("16 of 16 runs complete.\n")
    assert "not yet run" not in text
    assert "stale" not in text


def test_markdown_shows_every_kind_of_hole(spec: TableSpec) -> None:
    text = render.markdown(_table(spec, holes=True))
    assert _cells(text, "LoRA")[1:4] == ["✗ ¹", "70.6 ± 0.3", "· (1 of 2)"]
    assert _cells(text, "NoLA")[1] == "~"
    assert _cells(text, "RandLoRA")[1] == "·"
    assert _cells(text, "Zero-shot")[1] == "30.4 (1/2)"
    assert "\n¹ failed: out of_memory\n" in text
    assert "✗ failed" in text
    assert "skipped" not in text
    assert "8 of 16 runs complete; 2 failed, 2 stale, 4 missing." in text
    assert "nan" not in text.lower()


def test_latex_is_escaped_and_balanced(spec: TableSpec) -> None:
    for text in (render.latex(_table(spec)), render.latex(_table(spec, holes=True))):
        assert "A small\\_table | 50\\% \\& more" in text
        body = text[text.index("\\toprule") : text.index("\\bottomrule")]
        assert {line.count("&") for line in body.splitlines() if line.endswith("\\\\")} == {7}
        assert text.count("{") == text.count("}")
        assert text.isascii()
        for name in ("table", "tabular"):
            assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1


def test_csv_is_tidy_and_holes_are_empty(spec: TableSpec) -> None:
    lines = list(csv_module.DictReader(io.StringIO(render.csv(_table(spec, holes=True)))))
    assert len(lines) == 4 * 3
    by_place = {(line["method"], line["dataset"]): line for line in lines}
    failed = by_place["LoRA", "MNIST"]
    assert (failed["state"], failed["mean"], failed["std"], failed["n"]) == ("failed", "", "", "0")
    assert failed["reasons"] == "out of_memory"
    whole = by_place["LoRA", "EuroSAT"]
    assert float(whole["mean"]) == pytest.approx(0.706)
    assert (whole["adapter_parameters"], whole["devices"]) == ("73728", "cpu")
    average = by_place["LoRA", ""]
    assert (average["kind"], average["state"], average["complete"], average["of"]) == ("average", "missing", "1", "2")


def test_json_is_a_document(spec: TableSpec) -> None:
    document = json_module.loads(render.json(_table(spec, holes=True)))
    assert (document["title"], document["metric"]) == ("A small_table | 50% & more", "test/top1")
    assert document["coverage"]["completed"] == 8
    assert document["coverage"]["by_state"]["failed"] == 2
    rows = {row["labels"]["method"]: row for row in document["rows"]}
    assert rows["Zero-shot"]["reference"] is True
    assert rows["RandLoRA"]["entries"][0]["mean"] is None
    assert rows["RandLoRA"]["entries"][1]["values"] == pytest.approx({"1": 0.877, "2": 0.881})
    assert rows["RandLoRA"]["averages"][0]["coverage"] == {"complete": 1, "of": 2}
    assert "NaN" not in render.json(_table(spec, holes=True))


@pytest.mark.parametrize("form", [render.markdown, render.latex, render.csv, render.json])
def test_an_empty_table_renders(spec: TableSpec, form: Any) -> None:
    text = form(roll_up(spec, plan(spec), {}))
    assert text
    assert "nan" not in text.lower()


def test_the_paper_and_the_difference_stand_in_brackets(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text(
        TEXT.replace("RandLoRA: [", "RandLoRA6: [")
        + "paper: {file: results/paper/image_classification.csv, where: {paper_table: 11, data_budget: 100%}}\n"
    )
    spec = load_table(path)
    labels = {"method": "RandLoRA6", "dataset": "MNIST"}
    records = by_id(*(record_of({**labels, "seed": seed}, top1=0.99) for seed in "12"))
    table = roll_up(spec, plan(spec), records)
    paper = table.entry(("RandLoRA6",), ("MNIST",)).paper
    assert paper is not None
    text = render.markdown(table)
    shown = f"{abs(99 - paper * 100):.1f}"
    sign = "" if shown == "0.0" else "−" if paper > 0.99 else "+"
    verdict = "≈" if abs(paper - 0.99) <= 0.0005 else "≠"
    assert _cells(text, "RandLoRA6")[1] == f"99.0 ± 0.0 [{paper * 100:.1f}, {sign}{shown} {verdict}]"
    assert _cells(text, "RandLoRA6")[2].startswith("· [")
    assert "In brackets" in text


def test_all_files_are_written_and_an_outdated_plot_goes(spec: TableSpec, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    written = render.write_all(_table(spec), folder, "small")
    assert sorted(path.name for path in written) == sorted(path.name for path in folder.iterdir())
    assert {path.suffix for path in written} == {".md", ".tex", ".csv", ".json", ".png"}
    assert (folder / "small.png").read_bytes().startswith(b"\x89PNG")
    written = render.write_all(roll_up(spec, plan(spec), {}), folder, "small")
    assert {path.suffix for path in folder.iterdir()} == {".md", ".tex", ".csv", ".json"}
    assert len(written) == 4


def test_a_folder_that_cannot_be_made_is_a_clear_error(spec: TableSpec, tmp_path: Path) -> None:
    (tmp_path / "tables").touch()
    with pytest.raises(StoreError, match="cannot write"):
        render.write_all(_table(spec), tmp_path / "tables", "small")


def test_the_plot_shows_complete_rows_only(spec: TableSpec, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    (points,) = _panels(_table(spec, holes=True)).values()
    assert [point.label for point in points] == []
    (points,) = _panels(_table(spec)).values()
    assert [(point.label, point.parameters) for point in points] == list(COUNT.items())
    assert points[1].mean == pytest.approx(70.6)
    accuracy_against_parameters(_table(spec), path)
    whole = path.read_bytes()
    with pytest.raises(TableError, match="nothing to plot"):
        accuracy_against_parameters(roll_up(spec, plan(spec), {}), path)
    assert path.read_bytes() == whole


def test_what_trains_nothing_is_a_line_or_a_remark_where_it_lies_far_off() -> None:
    from matplotlib.figure import Figure

    def drawn(zero_shot: float) -> tuple[int, list[str]]:
        axes = Figure().subplots()
        points = [
            _Point(label="Zero-shot", parameters=0, mean=zero_shot, std=0.0, style=0),
            _Point(label="LoRA", parameters=70_000, mean=60.0, std=1.0, style=1),
            _Point(label="RandLoRA", parameters=64_000, mean=66.0, std=1.0, style=2),
        ]
        _draw_panel(axes, points, title="")
        lines = sum(line.get_linestyle() == "--" for line in axes.lines)
        return lines, [text.get_text() for text in axes.texts]

    assert drawn(58.5) == (1, ["Zero-shot (trains nothing)"])
    assert drawn(14.8) == (0, ["Zero-shot (trains nothing): 14.8 %, outside the picture"])


def test_a_table_without_an_average_has_no_plot(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT.replace("average: [dataset]\n", ""))
    with pytest.raises(TableError, match="no average to plot"):
        accuracy_against_parameters(_table(load_table(path)), tmp_path / "plot.png")


def test_labels_of_points_at_one_place_do_not_overlap(spec: TableSpec, tmp_path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [_Point(label=f"Method {n}", parameters=70_000 + n, mean=80.0, std=0.1, style=n) for n in range(6)]
    figure = Figure(figsize=(7, 4.6))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw_panel(axes, points, title="")
    canvas.draw()
    _write_labels(axes, points, canvas.get_renderer())
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts]
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0 k"), (47_328, "47.3 k"), (999_949, "999.9 k"), (999_950, "1.00 M"),
     (3_010_000, "3.01 M"), (151_300_000, "151.3 M")],
)  # fmt: skip
def test_quantities(count: int, text: str) -> None:
    assert quantity(count) == text


def test_sizes_and_durations() -> None:
    assert [size(n) for n in (5 * 2**19, 700 * 2**20, 5 * 2**28)] == ["2.5 MiB", "700 MiB", "1.25 GiB"]
    assert [duration(s) for s in (0.00124, 0.0124, 1.24)] == ["1.24 ms", "12.4 ms", "1240 ms"]


def test_the_budget_stands_beside_what_was_reached(spec: TableSpec) -> None:
    counts = Parameters(adapter=64_368, head=0, frozen=9, budget_asked=70_656, budget_reached=64_368)
    records = [record_of(cell.labels, top1=0.5, parameters=counts) for cell in spec.cells()]
    table = roll_up(spec, plan(spec), by_id(*records))
    text = render.markdown(table)
    row = dict(zip(_cells(text, "Method"), _cells(text, "RandLoRA"), strict=True))
    assert (row["Budget"], row["Adapter"]) == ("70.7 k", "64.4 k")
    assert json_module.loads(render.json(table))["rows"][0]["facts"]["budget_parameters"] == 70_656
    assert "Budget" not in render.markdown(_table(spec))
