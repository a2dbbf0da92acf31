"""A plan as people read it, and as data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from runners.formats import rows_text, size_text
from runners.planning.cells import STATES
from runners.planning.rows import total_of

if TYPE_CHECKING:
    from runners.planning.needs import Needs
    from runners.planning.throughput import Throughput

HOUR = 3600.0
Unit = tuple[float, str]
UNITS: tuple[Unit, ...] = ((1e9, "GFLOP"), (1e12, "TFLOP"), (1e15, "PFLOP"), (1e18, "EFLOP"))


@dataclass(frozen=True, kw_only=True)
class Report:
    """A plan.

    Attributes:
        table: name of the table.
        title: its title.
        device: what it is planned for.
        precision: of training there.
        cells: how many cells the table has; several may show one run.
        tokens: lengths that texts are taken to have; empty where there are no questions.
        rows: see :func:`runners.planning.rows.row_of`.
        unknown_sizes: data sets whose number of training samples is not known.
        needs: what is not here.
        throughput: where hours come from; None: there are none.
    """

    table: str
    title: str
    device: str
    precision: str
    cells: int
    tokens: Sequence[int]
    rows: Sequence[Mapping[str, Any]]
    unknown_sizes: Sequence[str]
    needs: Needs
    throughput: Throughput | None

    def render(self, form: str) -> str:
        """Return the report as ``text``, ``markdown``, ``csv`` (rows alone) or ``json`` (everything)."""
        if form == "csv":
            return rows_text(self.rows, "csv")
        if form == "json":
            return json.dumps(self._plain(), indent=1)
        return self._words("simple" if form == "text" else "pipe")

    def _plain(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "title": self.title,
            "device": self.device,
            "precision": self.precision,
            "cells": self.cells,
            "tokens": list(self.tokens),
            "throughput": None if self.throughput is None else self.throughput.title,
            "rows": list(self.rows),
            "total": total_of(self.rows),
            "unknown_sizes": list(self.unknown_sizes),
            "datasets": [one.plain() for one in (*self.needs.datasets, *self.needs.questions)],
            "weights": [dataclasses.asdict(one) for one in self.needs.weights],
            "disk_bytes": self.needs.disk_bytes,
            "download_bytes": self.needs.download_bytes,
            "free_bytes": self.needs.free_bytes,
        }

    def _words(self, style: str) -> str:
        total = total_of(self.rows)
        states = ", ".join(
            f"{total[state]:,} {state}" for state in STATES if total[state] or state in ("ok", "missing")
        )
        runs = "" if self.cells == total["cells"] else f", which show {total['cells']:,} runs"
        head = [f"{self.table}: {self.title}", f"{self.cells:,} cells{runs}: {states}", ""]
        unit = max((one for one in UNITS if one[0] <= _largest(total)), default=UNITS[0])
        lines = [_shown(row, unit) for row in self.rows]
        lines.append({**dict.fromkeys(lines[0], ""), **_sums(total, unit), "method": "in all"})
        lines = [{self._heading(name): value for name, value in line.items()} for line in lines]
        lines = _without_empty(lines)
        table = tabulate(lines, headers="keys", tablefmt=style, disable_numparse=True, colalign=_align(lines[0]))
        return "\n".join([*head, table, "", *self._notes(), *self._need_words(style)])

    def _heading(self, name: str) -> str:
        """Return the heading of a column in words that go with the data."""
        if name == "samples":
            return "texts" if self.tokens else "images"
        return "runs" if name == "cells" and self.cells != sum(row["cells"] for row in self.rows) else name

    def _notes(self) -> list[str]:
        where = f"planned for {self.device} in {self.precision}"
        images = " with training images that stay on the device (machine.resident_mib);" if not self.tokens else ""
        notes = [
            f"memory: the most that is allocated in training, {where};{images} the context and the reserve of a GPU "
            "come on top. Operations and hours: of what is left, training and evaluation apart."
        ]
        if self.tokens:
            lengths = " or ".join(map(str, self.tokens))
            notes.append(
                f"texts: all taken to be {lengths} tokens long, questions to answer too; without tokens=NUMBER that is "
                "the cutoff, the most a training text has. Answers are taken to be as long as they may be."
            )
        if self.throughput is None:
            notes.append(
                "hours: none without a measurement. Run one cell of each method first, or give throughput=FILE of "
                "randlora bench, measured where the table will run, or flops_per_s=NUMBER."
            )
        else:
            notes.append(f"hours: from {self.throughput.title}; waits for data are not in them.")
            if self.tokens and not self.throughput.answers:
                notes.append(
                    "answers are written token by token; only runs of this table that are done tell their hours."
                )
            elif self.throughput.evaluation is None:
                notes.append("evaluation is float32, whose rate was not measured: its hours are not known.")
        if self.unknown_sizes:
            what = "questions" if self.tokens else "images"
            notes.append(f"unknown number of training {what}: {', '.join(self.unknown_sizes)}.")
        notes += [f"{row['method']}: {row['budget_note']}" for row in self.rows if row["budget_note"]]
        notes += [f"{row['method']}: no prediction: {row['problem']}" for row in self.rows if row["problem"]]
        return notes

    def _need_words(self, style: str) -> list[str]:
        needs, words = self.needs, [""]
        absent = [one for one in needs.weights if one.missing is not None]
        words += [f"weights: {one.backbone}: {one.missing}, at most {size_text(one.most_bytes)}" for one in absent]
        if not absent:
            words.append(f"weights: all here ({', '.join(one.backbone for one in needs.weights)})")
        words += self._question_words(style)
        if not needs.datasets:
            return words
        if not needs.unprepared:
            return [*words, f"data sets: all {len(needs.datasets)} prepared"]
        words.append(
            f"data sets: {len(needs.unprepared)} of {len(needs.datasets)} not prepared; a run prepares what it needs. "
            f"Disk for their images: {needs.disk_text}, free: {size_text(needs.free_bytes)}; "
            f"downloads: {needs.download_text}"
        )
        if needs.disk_bytes > needs.free_bytes:
            words.append("warning: they do not fit on this disk; name another folder with machine.prepared_root=PATH")
        rows = [
            {
                "data set": one.dataset,
                "state": one.state,
                "disk": "?" if one.disk_bytes is None else size_text(one.disk_bytes),
                "download": "?" if one.download_mib is None else size_text(round(one.download_mib * 2**20)),
                "to do": one.to_do,
            }
            for one in needs.unprepared
        ]
        return [*words, "", tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)]

    def _question_words(self, style: str) -> list[str]:
        needs = self.needs
        if not needs.questions:
            return []
        if not needs.absent_questions:
            return [f"questions: all here ({', '.join(one.dataset for one in needs.questions)})"]
        words = [
            f"questions: {len(needs.absent_questions)} of {len(needs.questions)} data sets not here; a run downloads "
            f"what it needs: {needs.question_download_text}"
        ]
        rows = [
            {
                "data set": one.dataset,
                "state": one.state,
                "download": "?" if one.download_mib is None else size_text(round(one.download_mib * 2**20)),
                "to do": one.to_do,
            }
            for one in needs.absent_questions
        ]
        return [*words, "", tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)]


def _largest(total: Mapping[str, Any]) -> float:
    return max(total["train_flops_left"] or 0, total["eval_flops_left"] or 0)


def _without_empty(lines: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Leave out the columns in which nothing stands."""
    kept = [name for name in lines[0] if any(line[name] not in ("", "0") for line in lines)]
    return [{name: line[name] for name in kept} for line in lines]


def _shown(row: Mapping[str, Any], unit: Unit) -> dict[str, str]:
    asked = row["budget_asked"]
    return {
        "method": row["method"],
        "cells": f"{row['cells']:,}",
        "left": f"{row['cells'] - row['ok']:,}",
        "trained": f"{row['parameters']:,}",
        "budget": "" if asked is None else f"{asked:,}",
        "head": _span(row["head_parameters_least"], row["head_parameters_most"]),
        "steps per run": _span(row["steps_least"], row["steps_most"]),
        **_sums(row, unit),
        "rate": row["rate_source"] or "",
    }


def _sums(row: Mapping[str, Any], unit: Unit) -> dict[str, str]:
    return {
        "steps": _count(row["steps"]),
        "samples": _count(row["samples"]),
        "memory": "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f} GB",
        unit[1]: _flops(row["train_flops_left"], unit),
        "hours": _hours(row["train_s_left"]),
        f"eval {unit[1]}": _flops(row["eval_flops_left"], unit),
        "eval hours": _hours(row["eval_s_left"]),
    }


def _span(least: int | None, most: int | None) -> str:
    if most is None or least is None:
        return "?"
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _flops(flops: float | None, unit: Unit) -> str:
    if flops is None:
        return "?"
    value = flops / unit[0]
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds / HOUR:.1f}" if seconds >= HOUR or seconds == 0 else f"{seconds / HOUR:.2g}"


def _align(line: Mapping[str, str]) -> list[str]:
    return ["left" if name in ("method", "rate") else "right" for name in line]
