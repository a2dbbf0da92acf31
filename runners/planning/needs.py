"""What a table needs that is not on this machine: prepared images, questions, weights, room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runners.compose import plain
from runners.data_questions import QuestionStatus, question_status
from runners.data_status import Status, status_of
from runners.formats import size_text
from runners.machine import ROOT
from runners.plan import QuestionRun
from runners.planning.predict import skeleton_of

if TYPE_CHECKING:
    from runners.planning.cells import PlannedCell
    from runners.tables import PlannedTable


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one backbone.

    Attributes:
        backbone: its name.
        missing: which are not here and where they come from; None where all are.
        most_bytes: their size as they are loaded; published files may be half of it.
    """

    backbone: str
    missing: str | None
    most_bytes: int


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is there and what is not.

    Attributes:
        datasets: the state of every data set of images of the table at the size it is used at.
        questions: the state of every data set of questions.
        weights: of every backbone of the table.
        free_bytes: room on the disk that prepared images go to.
    """

    datasets: tuple[Status, ...]
    questions: tuple[QuestionStatus, ...]
    weights: tuple[Weights, ...]
    free_bytes: int

    @property
    def unprepared(self) -> tuple[Status, ...]:
        """The data sets that a run would have to prepare first."""
        return tuple(one for one in self.datasets if one.state != "prepared")

    @property
    def absent_questions(self) -> tuple[QuestionStatus, ...]:
        """The data sets of questions that a run would have to download, or that are not as stated."""
        return tuple(one for one in self.questions if one.state != "here")

    @property
    def disk_bytes(self) -> int:
        """Room that the images to prepare take, as far as it is known; downloads are not in it."""
        return sum(one.disk_bytes or 0 for one in self.unprepared)

    @property
    def download_bytes(self) -> int:
        """What has to be downloaded for images, as far as it is known."""
        return round(sum(one.download_mib or 0 for one in self._absent) * 2**20)

    @property
    def disk_text(self) -> str:
        """The room for the images to prepare, in words."""
        return _known(self.disk_bytes, unknown=sum(one.disk_bytes is None for one in self.unprepared))

    @property
    def download_text(self) -> str:
        """What has to be downloaded for images, in words."""
        return _known(self.download_bytes, unknown=sum(one.download_mib is None for one in self._absent))

    @property
    def question_download_text(self) -> str:
        """What has to be downloaded for questions that are not here, in words."""
        sizes = [one.download_mib for one in self.absent_questions]
        return _known(round(sum(size or 0 for size in sizes) * 2**20), unknown=sum(size is None for size in sizes))

    @property
    def _absent(self) -> list[Status]:
        return [one for one in self.unprepared if one.state not in ("here", "cached")]


def _known(count: int, *, unknown: int) -> str:
    return size_text(count) + (f" and {unknown} of unknown size" if unknown else "")


def find_needs(table: PlannedTable, cells: Sequence[PlannedCell]) -> Needs:
    """Return what the cells of a table need."""
    composed = dict(zip((one.id for one in table.planned), table.configs, strict=True))
    datasets: dict[tuple[str, int], Status] = {}
    questions: dict[str, QuestionStatus] = {}
    weights: dict[str, Weights] = {}
    for cell in cells:
        run, config = cell.run, composed[cell.planned.id]
        name, description = config.chosen["dataset"], config.nodes["dataset"]
        if isinstance(run, QuestionRun):
            if cell.planned.key.dataset not in questions:
                questions[cell.planned.key.dataset] = question_status(name, plain(description), machine=run.machine)
        elif (key := (cell.planned.key.dataset, cell.work.size)) not in datasets:
            datasets[key] = status_of(name, plain(description), machine=run.machine, size=cell.work.size)
        name = cell.planned.key.backbone
        if name not in weights:
            size = sum(one.numel() * one.element_size() for one in skeleton_of(run.backbone).parameters())
            missing = run.backbone.missing_weights(root=ROOT)
            weights[name] = Weights(backbone=name, missing=missing, most_bytes=size)
    folder = cells[0].run.machine.prepared_path if cells else ROOT
    return Needs(
        datasets=tuple(datasets.values()),
        questions=tuple(questions.values()),
        weights=tuple(weights.values()),
        free_bytes=_free(folder),
    )


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is or will be on."""
    there = next(one for one in (folder, *folder.resolve().parents) if one.exists())
    return shutil.disk_usage(there).free
