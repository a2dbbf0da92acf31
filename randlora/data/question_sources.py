"""Where the questions of language datasets come from: a folder, or the repository of LLM-Adapters."""

from __future__ import annotations

import http.client
import shutil
import tempfile
import urllib.request
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from randlora.checks import check_text
from randlora.data.errors import MissingError
from randlora.data.question import Question, read_questions

SUFFIXES = (".jsonl.gz", ".jsonl", ".json")
# the folders of LLM-Adapters' own repository
TASKS, MIXES = "dataset", "ft-training_set"
TIMEOUT_S = 30.0


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
            MissingError: if it is not there, or cannot be downloaded.
            DataError: if it is malformed.
        """

    @abstractmethod
    def mix(self, name: str, *, root: Path) -> tuple[Question, ...]:
        """Return a training mix such as ``commonsense_170k``, in its order; arguments and errors as of ``task``."""

    @abstractmethod
    def on_disk(self) -> QuestionFolder:
        """Return what of it is on this machine already, from which nothing is downloaded."""


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

    def on_disk(self) -> QuestionFolder:
        """Return itself."""
        return self

    def _found(self, *names: str, root: Path) -> Path:
        folder = root / Path(self.path).expanduser()
        for name in names:
            for suffix in SUFFIXES:
                file = folder / f"{name}{suffix}"
                if file.is_file():
                    return file
        looked = " nor ".join(f"{name}{{{','.join(SUFFIXES)}}}" for name in names)
        raise MissingError(
            f"there is neither {looked} in {folder}; give the folder that holds it with "
            "dataset.source=folder dataset.sources.folder.path=PATH"
        )


@dataclass(frozen=True, kw_only=True)
class GithubQuestions(QuestionSource):
    """Files of a GitHub repository in LLM-Adapters' layout, kept in the cache folder of the Hugging Face libraries.

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
        return read_questions(self._file(f"{TASKS}/{folder}/{part}.json"))

    def mix(self, name: str, *, root: Path) -> tuple[Question, ...]:
        """Return a training mix; see :class:`QuestionSource`."""
        return read_questions(self._file(f"{MIXES}/{name}.json"))

    def on_disk(self) -> QuestionFolder:
        """Return what was downloaded before."""
        return QuestionFolder(path=str(self._cache()))

    def url(self, path: str) -> str:
        """Return where a file of the repository is downloaded from."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.revision}/{path}"

    def _cache(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HOME) / "randlora" / self.repository.replace("/", "--") / self.revision

    def _file(self, path: str) -> Path:
        file = self._cache() / path
        if not file.is_file():
            _download(self.url(path), file)
        return file


def _download(url: str, file: Path) -> None:
    """Write what an address gives to a file, which is there as a whole or not at all."""
    from huggingface_hub import constants

    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer,
            tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as partial,
        ):
            try:
                shutil.copyfileobj(answer, partial)
                partial.close()
                Path(partial.name).replace(file)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
    except (OSError, http.client.HTTPException) as error:  # no network, no such file, an answer broken off
        raise MissingError(
            f"cannot download {url} ({error}); run the same command where there is a network (what was downloaded is "
            "kept and found again offline), or read a copy on this machine: dataset.source=folder "
            "dataset.sources.folder.path=PATH"
        ) from error
