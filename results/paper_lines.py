"""Lines of the CSV files with the paper's numbers."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class PaperError(ValueError):
    """The `paper` part of a table file does not fit its CSV; the message says what does."""


def read_lines(file: str) -> list[dict[str, str]]:
    """Return the lines of a CSV of the checkout; PaperError naming the CSV files beside it if there is none."""
    path = ROOT / file
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except OSError as error:
        there = ", ".join(sorted(each.name for each in path.parent.glob("*.csv"))) or "none"
        raise PaperError(f"cannot read {file}: {error.strerror}; CSV files there: {there}") from error
    if not lines:
        raise PaperError(f"{file} has no lines")
    return lines


def matching_lines(lines: list[dict[str, str]], where: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the lines that have these values; PaperError for a column or value that is not there."""
    for column, value in where.items():
        require(column, lines[0], "columns of the CSV")
        require(value, {line[column] for line in lines}, f"values left in column {column}")
        lines = [line for line in lines if line[column] == value]
    return lines


def require_all(names: Any, valid: Any, what: str) -> None:
    """Raise PaperError unless each name is valid."""
    for name in names:
        require(name, valid, what)


def require(name: Any, valid: Any, what: str) -> None:
    """Raise PaperError unless a name is valid, with the valid ones."""
    if name not in valid:
        raise PaperError(f"does not know {name!r}; {what}: {', '.join(sorted(valid))}")
