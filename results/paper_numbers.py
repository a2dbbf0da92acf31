"""The paper's numbers beside ours: which line of a CSV in `results/paper/` belongs to which place of a table.

In a table file:

```yaml
paper:
  file: results/paper/image_classification.csv    # from the root of the checkout
  where: {paper_table: 11}                        # keep the lines that have these values
  value: top1_percent                             # the column with the number
  unit: percent                                   # divide by 100; needed where the column does not end in _percent
  of: cells                                       # or averages: the CSV has no numbers by the axes under average
  same_for: [temperature]                         # axes that the paper does not tell apart
  for_every: {data: zero-shot}                    # axis: a value of the CSV whose numbers hold at every label
  across: dataset                                 # an axis whose labels are columns of the CSV (then there is no value)
  columns: {data: data_budget}                    # axis: CSV column, where the names differ
  labels: {method: {LoRA-32: LoRA32}}             # axis: {label: CSV value}, where they differ; two may share one
  error: 0.02                                     # how far off a number read from a picture may be, as printed
```

`value` may be left out where exactly one column ends in `_percent`. A label that the CSV does not have leaves its
places without a number (the paper has no such run); an axis of which no label is found is an error. An empty value is
no number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from results.paper_lines import PaperError, matching_lines, read_lines, require, require_all

_KEYS = ("file", "where", "value", "unit", "of", "same_for", "for_every", "across", "columns", "labels", "error")
_UNITS = ("percent", "none")
_KINDS = ("cells", "averages")
_Line = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A printed number; `rounding` is how far the true one may be from it, half of the last digit printed."""

    value: float
    rounding: float


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Numbers by labels: `numbers` maps the labels of `axes`, in that order, to a number of a cell or an average.

    `digits` is how many decimals they are printed with.
    """

    file: str
    where: Mapping[str, str]
    of: Literal["cells", "averages"]
    axes: tuple[str, ...]
    numbers: Mapping[tuple[str, ...], Number]
    digits: int

    def get(self, labels: Mapping[str, str]) -> Number | None:
        """Return the paper's number for the place with these labels, None if it has none."""
        return self.numbers.get(tuple(labels[axis] for axis in self.axes))

    def without_numbers(self) -> Paper:
        """Return the reference with no number, for a table that is cut so that none fits it any more."""
        return replace(self, numbers={})

    @classmethod
    def parse(cls, data: Mapping[str, Any], labels: Mapping[str, Sequence[str]], *, average: Sequence[str]) -> Paper:
        """Read the `paper` part of a table file for row and column axes with these `labels`.

        `average` are the axes that averages run over. Raises PaperError if it does not fit.
        """
        for key in data:
            if key not in _KEYS:
                raise PaperError(f"does not know {key!r}; it takes {', '.join(_KEYS)}")
        for key, valid in (("of", _KINDS), ("unit", _UNITS)):
            require(data.get(key, valid[0]), valid, f"{key} is one of")
        if data.get("of", "cells") == "averages":
            if not average:
                raise PaperError("has numbers of averages, but the table has no average")
            labels = {axis: names for axis, names in labels.items() if axis not in average}
        labels = _told_apart(data, labels)
        if not isinstance(data.get("file"), str):
            raise PaperError("needs file, the path of a CSV from the root of the checkout")
        where = _texts(data, "where")
        lines = matching_lines(read_lines(data["file"]), where)
        columns, across = _columns(data, labels, lines[0])
        translations = _translations(data.get("labels", {}), labels)
        value = None if across else _value_column(data.get("value"), lines[0])
        everywhere = _texts(data, "for_every")
        require_all(everywhere, labels, "row and column axes")
        labels_of: dict[str, dict[str, list[str]]] = {}
        for axis in labels:
            translation = translations.get(axis, {})
            there = set(lines[0]) if axis == across else {line[columns[axis]] for line in lines}
            _check_labels(axis, labels[axis], translation, there)
            labels_of[axis] = {}
            for label in labels[axis]:
                labels_of[axis].setdefault(translation.get(label, label), []).append(label)
            if axis in everywhere:
                require(everywhere[axis], there, f"values for axis {axis}")
                labels_of[axis][everywhere[axis]] = list(labels[axis])
        percent = data.get("unit", "percent" if (value or "").endswith("_percent") else "none") == "percent"
        error = _error(data.get("error"))
        numbers: dict[tuple[str, ...], Number] = {}
        digits = 0
        for place, text in _places(lines, labels_of, columns, across, value):
            if place in numbers:
                raise PaperError(f"has two lines for {' / '.join(place)}; narrow it down under paper.where")
            if text.strip():
                numbers[place] = _number(text, percent=percent, error=error)
                digits = max(digits, len(text.strip().partition(".")[2]))
        return cls(
            file=data["file"],
            where=where,
            of=data.get("of", "cells"),
            axes=tuple(labels),
            numbers=numbers,
            digits=digits,
        )


def _told_apart(data: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    same = data.get("same_for", [])
    if not isinstance(same, list):
        raise PaperError(f"same_for must be a list of axes, not {same!r}")
    require_all(same, labels, "row and column axes")
    return {axis: names for axis, names in labels.items() if axis not in same}


def _columns(
    data: Mapping[str, Any], labels: Mapping[str, Sequence[str]], line: _Line
) -> tuple[dict[str, str], str | None]:
    """Return the CSV column of each axis, and the axis that runs across columns."""
    across = data.get("across")
    if across is not None:
        require(across, labels, "row and column axes")
        if "value" in data:
            raise PaperError("has both value and across; the numbers stand in one column or across several")
    stated = _texts(data, "columns")
    require_all(stated, labels, "row and column axes")
    columns = {axis: stated.get(axis, axis) for axis in labels if axis != across}
    for axis, column in columns.items():
        require(column, line, f"columns to map axis {axis} to under paper.columns")
    return columns, across


def _places(
    lines: Sequence[_Line],
    labels_of: Mapping[str, Mapping[str, Sequence[str]]],
    columns: Mapping[str, str],
    across: str | None,
    value: str | None,
) -> Iterator[tuple[tuple[str, ...], str]]:
    for line in lines:
        if not all(line[column] in labels_of[axis] for axis, column in columns.items()):
            continue
        own = {axis: labels_of[axis][line[column]] for axis, column in columns.items()}
        numbers = {"": value or ""} if across is None else {name: name for name in labels_of[across] if name in line}
        for name, column in numbers.items():
            place = own if across is None else {**own, across: labels_of[across][name]}
            for labels in itertools.product(*(place[axis] for axis in labels_of)):
                yield labels, line[column]


def _value_column(asked: Any, line: _Line) -> str:
    if asked is not None:
        require(asked, line, "columns of the CSV")
        return str(asked)
    percents = [column for column in line if column.endswith("_percent")]
    if len(percents) != 1:
        raise PaperError(f"needs value, one of {', '.join(line)}")
    return percents[0]


def _number(text: str, *, percent: bool, error: float | None) -> Number:
    scale = 100.0 if percent else 1.0
    try:
        value = float(text)
    except ValueError as reason:
        raise PaperError(f"{text!r} is not a number") from reason
    rounding = 0.5 * 10.0 ** -len(text.strip().partition(".")[2]) if error is None else error
    return Number(value=value / scale, rounding=rounding / scale)


def _error(text: Any) -> float | None:
    try:
        value = None if text is None else float(text)
    except (TypeError, ValueError) as error:
        raise PaperError(f"error must be a number, not {text!r}") from error
    if value is not None and not 0 <= value < float("inf"):
        raise PaperError(f"error must be 0 or more, not {text!r}")
    return value


def _translations(data: Any, labels: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    if not isinstance(data, dict):
        raise PaperError(f"labels must map an axis to label: CSV value, not {data!r}")
    require_all(data, labels, "row and column axes")
    for axis in data:
        require_all(_texts(data, axis), labels[axis], f"labels of axis {axis}")
    return data


def _check_labels(axis: str, labels: Sequence[str], translation: Mapping[str, str], there: set[str]) -> None:
    require_all(translation.values(), there, f"values for axis {axis}")
    if not any(translation.get(label, label) in there for label in labels):
        raise PaperError(f"has no label of axis {axis}; map them under paper.labels to {', '.join(sorted(there))}")


def _texts(data: Mapping[str, Any], key: str) -> dict[str, str]:
    mapping = data.get(key, {})
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise PaperError(f"{key} must map names to texts, not {mapping!r}")
    return mapping
