"""What the verb ``data`` does with language datasets: they are read as they are, nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from randlora.data.errors import DataError, MissingError
from runners.compose import instantiate_part
from runners.data_status import WIDE, Counts, Status
from runners.machine import Machine

if TYPE_CHECKING:
    from randlora.data.questions import LanguageDataset, Question

TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class QuestionStatus(Status):
    """A line of the table of language datasets.

    ``state`` is ``here`` (everything is in its folder or was downloaded, and is as stated), ``partly here``,
    ``missing`` or ``differs``.

    Attributes:
        found: the number of questions of each part on this machine, by ``train`` and the names of its tasks; None where
            they are missing, malformed or not as stated.
        stated: the numbers its file states, None where it states none.
        problem: what is wrong with the first part that is not found, empty otherwise.
    """

    found: Mapping[str, int | None]
    stated: Mapping[str, int | None]
    problem: str

    def asked(self) -> dict[str, Any]:
        """Return what there is of it, as people read it."""
        tests = [key for key in self.stated if key != TRAIN]
        return {
            "dataset": self.dataset,
            "state": self.state,
            "train, found / stated": _pair(self.found[TRAIN], self.stated[TRAIN]),
            "tasks": f"{sum(self.found[key] is not None for key in tests)} of {len(tests)}",
            "test, found / stated": _pair(_sum(self.found, tests), _sum(self.stated, tests)),
            "source": self.source,
            "licence": self.licence if len(self.licence) <= WIDE else f"{self.licence[: WIDE - 1]}…",
            "to do": self.to_do or "-",
        }

    def plain(self) -> dict[str, Any]:
        """Return everything as one flat row, with the columns of a dataset of images."""
        own = ("found", "stated", "problem")
        row = Status.plain(self)
        return {name: value for name, value in row.items() if name not in own}


def is_language(description: Mapping[str, Any]) -> bool:
    """Return whether a dataset, as its file states it, holds questions and not images."""
    return "questions" in description


def on_disk(dataset: LanguageDataset) -> LanguageDataset:
    """Return a language dataset that is read from what is on this machine already and downloads nothing."""
    sources = {**dataset.sources, dataset.source: dataset.chosen.on_disk()}
    return replace(dataset, sources=sources)


def question_status(dataset: str, description: Mapping[str, Any], *, machine: Machine) -> QuestionStatus:
    """Return the line of a language dataset; arguments as of :func:`runners.data_status.status_of`."""
    described = instantiate_part("dataset", OmegaConf.create(dict(description)))
    chosen = description["sources"][description["source"]]
    read, failed = _read(on_disk(described), machine.data_path)
    found = {key: len(read[key]) if key in read else None for key in described.sizes}
    problems = list(failed.values())
    differs = [problem for problem in problems if not isinstance(problem, MissingError)]
    here = [number for number in found.values() if number is not None]
    state = "here" if len(here) == len(found) else "differs" if differs else "partly here" if here else "missing"
    tests = [key for key in described.sizes if key != TRAIN]
    counted = Counts(train=described.sizes[TRAIN], validation=None, test=_sum(described.sizes, tests), classes=None)
    place = chosen.get("path") or chosen.get("repository")
    return QuestionStatus(
        dataset=dataset,
        title=description["title"],
        state=state,
        sizes=(),
        counts=counted,
        paper=None,
        disk_bytes=None,
        download_mib=description["download_mib"],
        licence=description["licence"],
        source=f"{description['source']}: {place}",
        verified=False,
        to_do="" if state == "here" else _to_do(dataset, description, path="path" in chosen and not differs),
        found=found,
        stated=dict(described.sizes),
        problem="".join(str(problem) for problem in (differs or problems)[:1]),
    )


def prepare_questions(dataset: LanguageDataset, *, machine: Machine) -> None:
    """Read every part of a language dataset, downloaded first where its source is no folder, and print what is there.

    Raises:
        DataError: for the first part that is missing, malformed or not as stated.
    """
    for key, read in _readers(dataset).items():
        questions = read(root=machine.data_path)
        name = f"{dataset.name} train" if key == TRAIN else f"{dataset.name} test, {key}"
        print(f"{name}: {len(questions):,} questions, {_checks(dataset, key)}")


def verify_questions(dataset: LanguageDataset, *, machine: Machine) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row per part of a language dataset and what is wrong with it; a stated digest is compared."""
    from randlora.data.question import digest_of

    read, failed = _read(dataset, machine.data_path)
    rows = [
        {
            "dataset": dataset.name,
            "part": key,
            "questions": len(read[key]) if key in read else None,
            "result": _checks(dataset, key) if key in read else "differs",
            "digest": digest_of(read[key])[:12] if key in read else None,
        }
        for key in dataset.sizes
    ]
    return rows, [str(problem) for problem in failed.values()]


def _readers(dataset: LanguageDataset) -> dict[str, Callable[..., tuple[Question, ...]]]:
    """Return what reads the training questions, and the test questions of every task."""
    return {TRAIN: dataset.training, **{name: task.test for name, task in dataset.tasks.items()}}


def _read(dataset: LanguageDataset, root: Path) -> tuple[dict[str, tuple[Question, ...]], dict[str, DataError]]:
    """Return the parts of a dataset that can be read, and what is wrong with the others."""
    read, failed = {}, {}
    for key, reader in _readers(dataset).items():
        try:
            read[key] = reader(root=root)
        except DataError as error:
            failed[key] = error
    return read, failed


def _checks(dataset: LanguageDataset, key: str) -> str:
    if dataset.sha256[key] is not None:
        return "digest as stated"
    return "number as stated, no digest" if dataset.sizes[key] is not None else "not checked"


def _to_do(dataset: str, description: Mapping[str, Any], *, path: bool) -> str:
    """Return the command that downloads, or that says what is wrong; with the folder to give where that is missing."""
    command = f"randlora data prepare dataset={dataset}"
    return f"{command} dataset.sources.{description['source']}.path=…" if path else command


def _pair(found: int | None, stated: int | None) -> str:
    return " / ".join("-" if number is None else f"{number:,}" for number in (found, stated))


def _sum(numbers: Mapping[str, int | None], keys: list[str]) -> int | None:
    known = [numbers[key] for key in keys]
    return None if None in known else sum(number for number in known if number is not None)
