"""Table files (`experiments/*.yaml`): what a table compares, how it is laid out, and the runs it is made of.

A table file is data: axes of Hydra overrides, and which axes make rows, columns and repeats. Every scalar in it is read
as text, so the labels `1`, `on` and `0.50` stay what they look like.

```yaml
title: CLIP ViT-B/32, both towers, 22 datasets (paper Table 11)
metric: test/top1                          # a fraction, shown in percent
fixed: [backbone=clip_vit_b32]             # overrides of every cell
axes:                                      # axis: {label: [overrides]}
  method:  {Zero-shot: [method=zero_shot], LoRA-32: [method=lora, method.rank=32]}
  dataset: {Cars: [dataset=cars], DTD: [dataset=dtd]}
  seed:    {1: [seed=1], 2: [seed=2]}
rows: [method]                             # with several row axes the last one is compared, within blocks of the others
columns: [dataset]
average: [dataset]                         # optional: column axes to average over, without weights
repeat: [seed]                             # optional: axes behind each mean and standard deviation
references: [Zero-shot]                    # optional: row labels that never count as the best
facts: [adapter_parameters, step_time]     # optional: extra columns; all of FACTS unless told
note: One sentence under the title.        # optional
paper:                                     # optional: see results/paper_numbers.py
  file: results/paper/image_classification.csv
  where: {paper_table: 11}
```
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from results.paper_numbers import Paper, PaperError
from results.record import Key

FACTS = ("budget", "adapter_parameters", "head_parameters", "peak_memory", "step_time")
"""The extra columns a table can have; each is the median over the completed runs of a row."""


class TableError(ValueError):
    """A table file, or what is asked of a table, is not valid; the message says where and what is valid."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a table: its label on every axis, and the overrides that compose its config."""

    labels: Mapping[str, str]
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A cell whose config has been composed: the id of its run and the key a reader knows it by."""

    cell: Cell
    id: str
    key: Key


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A valid table file. `axes` maps axis to label to overrides, in the order of the file."""

    name: str
    title: str
    note: str | None
    metric: str
    fixed: tuple[str, ...]
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    average: tuple[str, ...]
    repeat: tuple[str, ...]
    facts: tuple[str, ...]
    references: tuple[str, ...]
    paper: Paper | None

    def cells(self) -> tuple[Cell, ...]:
        """Return every cell, the last axis of the file varying fastest."""
        return tuple(
            Cell(
                labels=dict(zip(self.axes, labels, strict=True)),
                overrides=self.fixed
                + tuple(
                    override
                    for axis, label in zip(self.axes, labels, strict=True)
                    for override in self.axes[axis][label]
                ),
            )
            for labels in itertools.product(*self.axes.values())
        )

    def points(self, axes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Return every combination of labels of `axes`, the last varying fastest; one empty one for no axes."""
        return tuple(itertools.product(*(self.axes[axis] for axis in axes)))


def find_table(name: str, folder: Path) -> Path:
    """Return `folder/<name>.yaml`; TableError listing the tables that exist, nearest name first, if there is none."""
    names = [path.stem for path in sorted(folder.glob("*.yaml"))]
    if name in names:
        return folder / f"{name}.yaml"
    names.sort(key=lambda other: difflib.SequenceMatcher(None, name, other).ratio(), reverse=True)
    there = f"it has {', '.join(names)}" if names else "it has no table file"
    raise TableError(f"no table {name!r} in {folder}; {there}")


def load_table(path: Path) -> TableSpec:
    """Read and check a table file; TableError for whatever it should not hold, with the file, the key and what may."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextLoader)
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not valid YAML: {error}") from error
    return _Parser(path=path).spec(data)


class _TextLoader(yaml.BaseLoader):
    """YAML in which every scalar is text and a repeated key is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} appears twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_REQUIRED = ("title", "metric", "axes", "rows", "columns")
_OPTIONAL = ("note", "fixed", "average", "repeat", "facts", "references", "paper")


@dataclass(frozen=True, kw_only=True)
class _Parser:
    """Turns parsed YAML into a TableSpec; it holds the path only to name it in errors."""

    path: Path

    def spec(self, data: Any) -> TableSpec:
        self._mapping("the file", data)
        self._known("key", data, _REQUIRED + _OPTIONAL, where="the file")
        missing = [key for key in _REQUIRED if not data.get(key)]
        if missing:
            raise self._error(missing[0], f"is missing or empty; a table needs {', '.join(_REQUIRED)}")
        axes = self._axes(data["axes"])
        rows, columns, average, repeat = (
            self._choices(key, data.get(key, []), tuple(axes)) for key in ("rows", "columns", "average", "repeat")
        )
        self._check_layout(axes, rows, columns, repeat)
        self._known("axis", average, columns, where="average", among="it averages over axes in columns")
        labels = tuple(label for axis in rows for label in axes[axis])
        return TableSpec(
            name=self.path.stem,
            title=self._text("title", data["title"]),
            note=self._text("note", data["note"]) if data.get("note") else None,
            metric=self._text("metric", data["metric"]),
            fixed=self._overrides("fixed", data.get("fixed", [])),
            axes=axes,
            rows=rows,
            columns=columns,
            average=average,
            repeat=repeat,
            facts=self._choices("facts", data.get("facts", list(FACTS)), FACTS),
            references=self._choices("references", data.get("references", []), labels),
            paper=self._paper(data["paper"], {axis: tuple(axes[axis]) for axis in rows + columns})
            if data.get("paper")
            else None,
        )

    def _axes(self, data: Any) -> dict[str, dict[str, tuple[str, ...]]]:
        axes: dict[str, dict[str, tuple[str, ...]]] = {}
        for axis, labels in self._mapping("axes", data).items():
            where = f"axes.{axis}"
            axes[axis] = {
                label: self._overrides(f"{where}.{label}", overrides)
                for label, overrides in self._mapping(where, labels).items()
            }
            if not axes[axis]:
                raise self._error(where, "is empty; give it at least one label")
            owners: dict[tuple[str, ...], str] = {}
            for label, overrides in axes[axis].items():
                if (first := owners.setdefault(overrides, label)) != label:
                    raise self._error(f"{where}.{label}", f"has the same overrides as {first}; they are the same runs")
        return axes

    def _check_layout(self, axes: Mapping[str, Any], *groups: tuple[str, ...]) -> None:
        uses = Counter(axis for group in groups for axis in group)
        for axis in axes:
            if uses[axis] != 1:
                often = "in none" if not uses[axis] else "more than once"
                raise self._error(f"axes.{axis}", f"is {often} of rows, columns, repeat; name it in exactly one")

    def _paper(self, data: Any, labels: Mapping[str, tuple[str, ...]]) -> Paper:
        try:
            return Paper.parse(self._mapping("paper", data), labels)
        except PaperError as error:
            raise self._error("paper", str(error)) from error

    def _choices(self, key: str, data: Any, valid: tuple[str, ...]) -> tuple[str, ...]:
        chosen = self._list(key, data)
        self._known(key, chosen, valid, where=key)
        return chosen

    def _known(self, kind: str, names: Sequence[str], valid: Sequence[str], *, where: str, among: str = "") -> None:
        unknown = [name for name in names if name not in valid]
        if unknown:
            raise self._error(where, f"does not know {unknown[0]!r}; {among or 'it takes'} {', '.join(valid)}")

    def _overrides(self, key: str, data: Any) -> tuple[str, ...]:
        overrides = self._list(key, data)
        for override in overrides:
            if "=" not in override and not override.startswith("~"):
                raise self._error(key, f"{override!r} is no override; write group=choice or key.path=value")
        return overrides

    def _list(self, key: str, data: Any) -> tuple[str, ...]:
        if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
            raise self._error(key, f"must be a list of texts such as [a, b], not {data!r}")
        if len(set(data)) != len(data):
            raise self._error(key, f"names something twice: {', '.join(data)}")
        return tuple(data)

    def _mapping(self, key: str, data: Any) -> Mapping[str, Any]:
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
            raise self._error(key, f"must be a mapping of names, not {data!r}")
        return data

    def _text(self, key: str, data: Any) -> str:
        if not isinstance(data, str):
            raise self._error(key, f"must be text, not {data!r}")
        return data

    def _error(self, key: str, message: str) -> TableError:
        return TableError(f"{self.path}: {key} {message}")
