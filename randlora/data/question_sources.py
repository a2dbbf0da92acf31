"""Where the questions of language datasets come from: a folder, or the repository of LLM-Adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randlora.checks import check_text
from randlora.data.errors import DataError
from randlora.data.question import Question, parse_records, read_questions

SUFFIXES = (".jsonl.gz", ".jsonl", ".json")
# the folders of LLM-Adapters' own repository
TASKS, MIXES = "dataset", "ft-training_set"


@dataclass(frozen=True, kw_only=True)
class QuestionSource(ABC):
    """A place that holds the questions of tasks, and mixes of them for training."""

    @abstractmethod
    def task(self, folder: str, part: str, *, root: Path) -> tuple[Question, ...]:
        """Return a part of a task, in its order.

        Args:
            folder: what the place calls the task, such as ``ARC-Easy``.
            part: ``train`` or ``test``.
            root: folder that relative paths start from.

        Raises:
            DataError: if it is missing or malformed.
        """

    @abstractmethod
    def mix(self, name: str, *, root: Path) -> tuple[Question, ...]:
        """Return a training mix such as ``commonsense_170k``, in its order; arguments and errors as of ``task``."""


@dataclass(frozen=True, kw_only=True)
class QuestionFolder(QuestionSource):
    """A folder on this machine: ``<path>/<task>/<part>.jsonl.gz`` and ``<path>/<mix>.json``, or LLM-Adapters' layout.

    In LLM-Adapters' own layout ``<path>`` is a copy of the repository, with ``dataset/<task>/<part>.json`` and
    ``ft-training_set/<mix>.json``. Of each file ``.jsonl.gz``, ``.jsonl`` and ``.json`` are looked for in this order.

    Attributes:
        path: the folder, from ``root`` where it is relative.
    """

    path: str

    def __post_init__(self) -> None:
        check_text(self, "path")

    def task(self, folder: str, part: str, *, root: Path) -> tuple[Question, ...]:
        """Return a part of a task; see :class:`QuestionSource`."""
        return read_questions(self._found(f"{folder}/{part}", f"{TASKS}/{folder}/{part}", root=root))

    def mix(self, name: str, *, root: Path) -> tuple[Question, ...]:
        """Return a training mix; see :class:`QuestionSource`."""
        return read_questions(self._found(name, f"{MIXES}/{name}", root=root))

    def _found(self, *names: str, root: Path) -> Path:
        folder = root / Path(self.path).expanduser()
        for name in names:
            for suffix in SUFFIXES:
                file = folder / f"{name}{suffix}"
                if file.is_file():
                    return file
        looked = " nor ".join(f"{name}{{{','.join(SUFFIXES)}}}" for name in names)
        raise DataError(
            f"there is neither {looked} in {folder}; give the folder that holds it with "
            "dataset.source=folder dataset.sources.folder.path=PATH"
        )


@dataclass(frozen=True, kw_only=True)
class GithubQuestions(QuestionSource):
    """Files of a GitHub repository in LLM-Adapters' layout, downloaded and cached by the ``datasets`` library.

    Attributes:
        repository: ``owner/name``.
        revision: a commit, for results that are to be repeated.
    """

    repository: str
    revision: str

    def __post_init__(self) -> None:
        check_text(self, "repository", "revision")

    def task(self, folder: str, part: str, *, root: Path) -> tuple[Question, ...]:
        """Return a part of a task; see :class:`QuestionSource`."""
        return self._read(f"{TASKS}/{folder}/{part}.json")

    def mix(self, name: str, *, root: Path) -> tuple[Question, ...]:
        """Return a training mix; see :class:`QuestionSource`."""
        return self._read(f"{MIXES}/{name}.json")

    def url(self, path: str) -> str:
        """Return where a file of the repository is downloaded from."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.revision}/{path}"

    def _read(self, path: str) -> tuple[Question, ...]:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
        from datasets.utils.logging import disable_progress_bar

        disable_progress_bar()
        url = self.url(path)
        try:
            rows: list[Mapping[str, Any]] = load_dataset("json", data_files=url, split="train").to_list()
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"cannot get {url} ({reason}); run the same command where there is a network (the copy in the cache is "
                "found again offline), or read a copy on this machine: dataset.source=folder "
                "dataset.sources.folder.path=PATH"
            ) from error
        return parse_records(rows, where=lambda index: f"{url}, record {index + 1}", of=url)
