"""Table files (`experiments/*.yaml`): what a table compares, how it is laid out, and the runs it is made of.

A table file is data: axes of Hydra overrides, and which axes make rows, columns and repeats. Every scalar in it is read
as text, so the labels `1`, `on` and `0.50` stay what they look like.

```yaml
title: CLIP ViT-B/32, both towers, 22 datasets (paper Table 11)
like: another_table                        # optional: metric, axes, rows to facts are its where not given here
metric: test/top1                          # a fraction, in percent; or cost/step_s, cost/train_bytes; see below
fixed: [backbone=clip_vit_b32]             # overrides of every cell
axes:                                      # axis: {label: [overrides]}; or paper: it has no runs of ours
  method:  {Zero-shot: [method=zero_shot], LoRA-32: [method=lora, method.rank=32], MaPLe: paper}
  dataset: {Cars: [dataset=cars], DTD: [dataset=dtd]}
  seed:    {1: [seed=1], 2: [seed=2]}
also:                                      # optional: further overrides of the cells with all these labels
  - {where: {method: [LoRA-32], dataset: [DTD]}, overrides: [recipe.micro_batch_size=64]}
rows: [method]                             # the last one is compared, within blocks of the others
columns: [dataset]
average: [dataset]                         # optional: column axes to average over, without weights
repeat: [seed]                             # optional: axes behind each mean and standard deviation
layout: rows                               # optional: or blocks, averages first, then each block apart
relative: {method: LoRA-32}                # optional: each value over that of the cell with this label
references: [Zero-shot]                    # optional: row labels that never count as the best
facts: [adapter_parameters, step_time]     # optional: extra columns, of FACTS and MORE_FACTS; all of FACTS unless told
note: One sentence under the title.        # optional
footnotes:                                 # optional: at places with these labels; on: average
  - {text: Labelled 10 in the text., where: {method: [LoRA-32]}}
paper:                                     # optional: see results/paper_numbers.py
  file: results/paper/image_classification.csv
  where: {paper_table: 11}
plot:                                      # optional: see results/plot_spec.py; without it, averages against parameters
  kind: against_data
```

One run may answer several places. A metric may have names in braces, and overrides that start with `metric.` fill them:

```yaml
metric: "{task}/{score}"
fixed: [metric.score=accuracy]
axes:
  task:   {BoolQ: [metric.task=boolq], PIQA: [metric.task=piqa]}
  method: {Chance: [method=zero_shot, metric.score=chance], LoRA-32: [method=lora]}
```

They choose among the numbers of a run and never reach its config, so the cells of a row above are one run: it is run
once, and counted once. Of two overrides for the same thing the last counts: fixed, then the axes in the order of the
file, then also. Repeats must have one metric; repeats that are one run, such as three seeds of a method that draws
nothing, count as one.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from results.metric_names import fill, values_of, without_names
from results.paper_numbers import Paper
from results.plot_spec import PlotSpec
from results.record import Key

FACTS = ("budget", "adapter_parameters", "head_parameters", "peak_memory", "step_time")
"""The extra columns a table has unless told; each is the median over the completed runs of a row."""
MORE_FACTS = ("trainable_percent",)
"""Those that a table has where it asks for them."""
Layout = Literal["rows", "blocks"]
Labels = Mapping[str, tuple[str, ...]]


class TableError(ValueError):
    """A table file, or what is asked of a table, is not valid; the message says where and what is valid."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a table: its label on every axis, the overrides that compose its run, and the metric it shows.

    Cells with equal overrides are one run.
    """

    labels: Mapping[str, str]
    overrides: tuple[str, ...]
    metric: str


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A cell whose config has been composed: the id of its run and the key a reader knows it by."""

    cell: Cell
    id: str
    key: Key


@dataclass(frozen=True, kw_only=True)
class Footnote:
    """A remark on the places whose labels are among `where`, or (`on_average`) on averages of such rows."""

    text: str
    where: Labels
    on_average: bool


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Overrides of the cells whose labels are among `where`."""

    where: Labels
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A valid table file. `axes` maps axis to label to overrides, in the order of the file.

    `paper_only` are the labels without runs of ours, by axis; `restricted` the labels that :meth:`select` left, by
    the axes it cut.
    """

    name: str
    title: str
    note: str | None
    metric: str
    fixed: tuple[str, ...]
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    paper_only: Labels
    also: tuple[Addition, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    average: tuple[str, ...]
    repeat: tuple[str, ...]
    layout: Layout
    relative: Mapping[str, str]
    facts: tuple[str, ...]
    references: tuple[str, ...]
    footnotes: tuple[Footnote, ...]
    paper: Paper | None
    plot: PlotSpec | None
    restricted: Labels

    def cells(self) -> tuple[Cell, ...]:
        """Return every cell, the last axis of the file varying fastest; labels that only the paper has have none."""
        combinations = (dict(zip(self.axes, labels, strict=True)) for labels in itertools.product(*self.axes.values()))
        return tuple(
            Cell(
                labels=labels,
                overrides=without_names(self._overrides(labels)),
                metric=self.metric_at(labels),
            )
            for labels in combinations
            if self.is_ours(labels)
        )

    def metric_at(self, labels: Mapping[str, str]) -> str:
        """Return the metric of a place; names that labels of axes not in `labels` decide stay in braces."""
        if "{" not in self.metric:
            return self.metric
        open_axes = {axis for axis in self.axes if axis not in labels}
        undecided = {name for axis in open_axes for own in self.axes[axis].values() for name in values_of(own)}
        for one in self.also:
            if set(one.where) & open_axes:
                undecided |= set(values_of(one.overrides))
        values = values_of(self._overrides(labels))
        return fill(self.metric, {name: value for name, value in values.items() if name not in undecided})

    def is_ours(self, labels: Mapping[str, str]) -> bool:
        """Return whether a place with these labels has runs of ours."""
        return not any(label in self.paper_only.get(axis, ()) for axis, label in labels.items())

    def points(self, axes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Return every combination of labels of `axes`, the last varying fastest; one empty one for no axes."""
        return tuple(itertools.product(*(self.axes[axis] for axis in axes)))

    def select(self, where: Mapping[str, Sequence[str]]) -> TableSpec:
        """Return the table of the cells with these labels alone, in the order of the file.

        Raises TableError for an axis or label that the table does not have.
        """
        for axis, labels in where.items():
            check_known(f"where={{{axis}: …}}: there is no axis", axis, self.axes)
            for label in labels or [""]:
                check_known(f"where={{{axis}: …}}: there is no label", label, self.axes[axis])
        for axis, label in self.relative.items():
            if axis in where and label not in where[axis]:
                raise TableError(f"where={{{axis}: …}} leaves out {label}, which every number is relative to")
        axes = {
            axis: {label: own for label, own in labels.items() if label in where.get(axis, labels)}
            for axis, labels in self.axes.items()
        }
        kept = {label for axis in self.rows for label in axes[axis]}
        paper = self.paper
        if paper is not None and paper.of == "averages" and set(where) & set(self.average):
            paper = paper.without_numbers()
        return replace(
            self,
            axes=axes,
            references=tuple(label for label in self.references if label in kept),
            paper=paper,
            restricted={axis: tuple(axes[axis]) for axis in where},
        )

    def _overrides(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        own = (override for axis in self.axes if axis in labels for override in self.axes[axis][labels[axis]])
        added = (override for one in self.also if matches(one.where, labels) for override in one.overrides)
        return (*self.fixed, *own, *added)


def matches(where: Labels, labels: Mapping[str, str]) -> bool:
    """Return whether each label is among those of its axis, where there are any."""
    return all(labels[axis] in wanted for axis, wanted in where.items() if axis in labels)


def check_known(what: str, name: str, valid: Sequence[str] | Mapping[str, object]) -> None:
    """Raise TableError unless a name is valid, with the valid ones."""
    if name not in valid:
        raise TableError(f"{what} {name!r}; valid: {', '.join(valid)}")


def find_table(name: str, folder: Path) -> Path:
    """Return `folder/<name>.yaml`; TableError listing the tables that exist, nearest name first, if there is none."""
    names = [path.stem for path in sorted(folder.glob("*.yaml"))]
    if name in names:
        return folder / f"{name}.yaml"
    names.sort(key=lambda other: difflib.SequenceMatcher(None, name, other).ratio(), reverse=True)
    there = f"it has {', '.join(names)}" if names else "it has no table file"
    raise TableError(f"no table {name!r} in {folder}; {there}")
