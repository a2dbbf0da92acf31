"""The page on planning beside Table 10: its predictions for Llama-3-8B are those of the table that it names."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from runners.machine import ROOT
from runners.planning.cells import PlannedCell, plan_cells
from runners.planning.text_forecast import TextSteps
from runners.tables import plan_table

COLUMNS = {"blocks kept": False, "blocks recomputed": True}


def lines_of_page() -> list[dict[str, str]]:
    """Return the lines of the page's table by the names of its columns; "predicted, blocks kept" is "blocks kept"."""
    page = (ROOT / "docs" / "PLANNING.md").read_text(encoding="utf-8")
    section = page.partition("**Beside Table 10**")[2].partition("\n| |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in f"| |{section}".splitlines()]
    names = [name.rpartition(", ")[2] for name in rows[0]]
    return [dict(zip(names, row, strict=True)) for row in rows[2:]]


def peaks(*, recomputed: bool) -> dict[str, int]:
    """Return the predicted bytes of the rows "Perf", by method and size as the page and the paper name them."""
    machine = [f"machine.recompute_blocks={str(recomputed).lower()}", "machine.device=cpu"]
    table = plan_table("dora_comparison", where={"data": ["Perf 15k"]}, forwarded=machine)
    steps = TextSteps(device="cuda", precision="bfloat16")
    cells = plan_cells(table, {})
    for key, learn in steps.jobs(cells):
        if key:  # without one it is of the evaluation
            learn()
    found = {name_of(cell): steps.trained(cell).peak_bytes for cell in cells}
    return {name: peak for name, peak in found.items() if peak is not None}


def name_of(cell: PlannedCell) -> str:
    method: Any = cell.run.solution.method
    return f"{cell.planned.cell.labels['method']}-{method.rank}"


@pytest.fixture(scope="module")
def page() -> list[dict[str, str]]:
    return lines_of_page()


def test_the_papers_column_is_the_papers(page: list[dict[str, str]]) -> None:
    with (ROOT / "results" / "paper" / "relative_cost.csv").open(encoding="utf-8") as file:
        (llama,) = (row for row in csv.DictReader(file) if row["model"] == "Llama3-8B")
    for line in page:
        method = line[""] if line[""] in llama else line[""].partition("-")[0]
        assert line["paper"] == llama[method].split("/")[1].strip()


@pytest.mark.parametrize("column", COLUMNS)
def test_the_predictions_are_those_of_the_table(page: list[dict[str, str]], column: str) -> None:
    found = peaks(recomputed=COLUMNS[column])
    assert found.keys() == {line[""] for line in page}
    for line in page:
        peak = found[line[""]]
        assert line[column] == f"{100 * peak / found['LoRA-32']:.0f} ({peak / 1e9:.1f} GB)"
