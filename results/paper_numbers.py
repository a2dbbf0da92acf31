"""The paper's numbers beside ours: which line of a CSV in `results/paper/` belongs to which cell of a table.

In a table file:

```yaml
paper:
  file: results/paper/image_classification.csv    # from the root of the checkout
  where: {paper_table: 11}                        # keep the lines that have these values
  value: top1_percent                             # the number; `*_percent` is divided by 100
  columns: {data: data_budget}                    # axis: CSV column, where the names differ
  labels: {method: {LoRA-32: LoRA32}}             # axis: {label: CSV value}, where they differ
```

`value` may be left out where exactly one column ends in `_percent`. A label that the CSV does not have leaves its cells
without a number (the paper has no such run); an axis of which no label is found is an error.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_KEYS = ("file", "where", "value", "columns", "labels")


class PaperError(ValueError):
    """The `paper` part of a table file does not fit its CSV; the message says what does."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Numbers by labels: `numbers` maps the labels of `axes`, in that order, to a fraction."""

    file: str
    where: Mapping[str, str]
    axes: tuple[str, ...]
    numbers: Mapping[tuple[str, ...], float]

    def get(self, labels: Mapping[str, str]) -> float | None:
        """Return the paper's number for the cell with these labels, None if it has none."""
        return self.numbers.get(tuple(labels[axis] for axis in self.axes))

    @classmethod
    def parse(cls, data: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> Paper:
        """Read the `paper` part of a table file for axes with these `labels`; PaperError if it does not fit."""
        unknown = [key for key in data if key not in _KEYS]
        if unknown:
            raise PaperError(f"does not know {unknown[0]!r}; it takes {', '.join(_KEYS)}")
        if not isinstance(data.get("file"), str):
            raise PaperError("needs file, the path of a CSV from the root of the checkout")
        where, columns = _texts(data, "where"), _texts(data, "columns")
        lines = _matching(_read(data["file"]), where)
        for axis in columns:
            _require(axis, labels, "row and column axes")
        translations = _translations(data.get("labels", {}), labels)
        axis_of_column = {columns.get(axis, axis): axis for axis in labels}
        label_of: dict[str, dict[str, str]] = {}
        for column, axis in axis_of_column.items():
            _require(column, lines[0], f"columns to map axis {axis} to under paper.columns")
            translation = translations.get(axis, {})
            _check_labels(axis, labels[axis], translation, {line[column] for line in lines})
            label_of[column] = {translation.get(label, label): label for label in labels[axis]}
        value_column = _value_column(data.get("value"), lines[0])
        return cls(file=data["file"], where=where, axes=tuple(labels), numbers=_numbers(lines, label_of, value_column))


def _numbers(
    lines: Sequence[Mapping[str, str]], label_of: Mapping[str, Mapping[str, str]], value_column: str
) -> dict[tuple[str, ...], float]:
    numbers: dict[tuple[str, ...], float] = {}
    for line in lines:
        if all(line[column] in known for column, known in label_of.items()):
            place = tuple(known[line[column]] for column, known in label_of.items())
            if place in numbers:
                raise PaperError(f"has two lines for {' / '.join(place)}; narrow it down under paper.where")
            numbers[place] = _number(line[value_column], value_column)
    return numbers


def _matching(lines: list[dict[str, str]], where: Mapping[str, str]) -> list[dict[str, str]]:
    for column, value in where.items():
        _require(column, lines[0], "columns of the CSV")
        there = {line[column] for line in lines}
        _require(value, there, f"values left in column {column}")
        lines = [line for line in lines if line[column] == value]
    return lines


def _read(file: str) -> list[dict[str, str]]:
    path = _ROOT / file
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except OSError as error:
        there = ", ".join(sorted(each.name for each in path.parent.glob("*.csv"))) or "none"
        raise PaperError(f"cannot read {file}: {error.strerror}; CSV files there: {there}") from error
    if not lines:
        raise PaperError(f"{file} has no lines")
    return lines


def _value_column(asked: Any, line: Mapping[str, str]) -> str:
    if asked is not None:
        _require(asked, line, "columns of the CSV")
        return str(asked)
    percents = [column for column in line if column.endswith("_percent")]
    if len(percents) != 1:
        raise PaperError(f"needs value, one of {', '.join(line)}")
    return percents[0]


def _number(text: str, column: str) -> float:
    try:
        return float(text) / (100 if column.endswith("_percent") else 1)
    except ValueError as error:
        raise PaperError(f"{text!r} in column {column} is not a number") from error


def _translations(data: Any, labels: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    if not isinstance(data, dict):
        raise PaperError(f"labels must map an axis to label: CSV value, not {data!r}")
    for axis in data:
        _require(axis, labels, "row and column axes")
        for label in _texts(data, axis):
            _require(label, labels[axis], f"labels of axis {axis}")
    return data


def _check_labels(axis: str, labels: Sequence[str], translation: Mapping[str, str], there: set[str]) -> None:
    for value in translation.values():
        _require(value, there, f"values for axis {axis}")
    if not any(translation.get(label, label) in there for label in labels):
        raise PaperError(f"has no label of axis {axis}; map them under paper.labels to {', '.join(sorted(there))}")


def _texts(data: Mapping[str, Any], key: str) -> dict[str, str]:
    mapping = data.get(key, {})
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise PaperError(f"{key} must map names to texts, not {mapping!r}")
    return mapping


def _require(name: Any, valid: Any, what: str) -> None:
    if name not in valid:
        raise PaperError(f"does not know {name!r}; {what}: {', '.join(sorted(valid))}")
