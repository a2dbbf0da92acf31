"""Language datasets: the questions of one task, or a mix of tasks to train on and to be judged by task by task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from randlora.checks import check_text, check_whole, is_number
from randlora.data.errors import DataError
from randlora.data.question import Question, Questions, check_answers, digest_of, options
from randlora.data.question_sources import QuestionSource

__all__ = ["Draw", "LanguageDataset", "Question", "QuestionMix", "QuestionSet", "Questions", "options"]

TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A part of the training questions, drawn without replacement: it depends on their number and the seed alone.

    Attributes:
        count: how many, from 1.
        seed: seed of the draw; not the run's.
    """

    count: int
    seed: int

    def __post_init__(self) -> None:
        check_whole(self, "count")
        check_whole(self, "seed", least=0)

    def of(self, questions: Sequence[Question], *, where: str) -> tuple[Question, ...]:
        """Return those drawn, in the order of ``questions``.

        Raises:
            DataError: if there are fewer than ``count``.
        """
        import torch

        from randlora.seeds import generator_for

        if len(questions) < self.count:
            raise DataError(
                f"{where}: {self.count:,} questions are to be drawn, there are {len(questions):,}; "
                "lower draw.count, or set draw to null for all of them"
            )
        order = torch.randperm(len(questions), generator=generator_for(self.seed, "draw of questions"))
        return tuple(questions[position] for position in order[: self.count].sort().values.tolist())


@dataclass(frozen=True, kw_only=True)
class LanguageDataset(ABC):
    """Questions to train on, and the tasks whose test questions a run is judged by.

    Attributes:
        name: short name, as on the command line, such as ``commonsense_15k``.
        title: name for people.
        version: raised when which questions there are, or their order, changes.
        source: the key in ``sources`` that is read.
        sources: places the same questions can come from.
        sizes: the number of training questions (``train``) and of test questions of each task (by its name), checked
            where stated; None: not checked.
        sha256: digests of the same questions in their order (:func:`~randlora.data.question.digest_of`), checked
            where stated.
        download_mib: what the download takes, in MiB; 0: nothing; None: not known.
        licence: of the questions.
        citation: what to cite for them.
        questions: its tasks by name, in the order of the paper's tables.

    Raises:
        ValueError: for a field that cannot be meant, naming the dataset and the field.
    """

    name: str
    title: str
    version: int
    source: str
    sources: Mapping[str, QuestionSource]
    sizes: Mapping[str, int | None]
    sha256: Mapping[str, str | None]
    download_mib: float | None
    licence: str
    citation: str
    questions: Mapping[str, Questions]

    def __post_init__(self) -> None:
        check_text(self, "name", "title", "licence", "citation")
        check_whole(self, "version")
        for key, one in self.questions.items():
            if not isinstance(one, Questions) or one.name != key:
                raise self._invalid(f"questions.{key}", f"is {one!r}; give the questions of {key!r}")
        object.__setattr__(self, "questions", dict(self.questions))
        if self.download_mib is not None and (not is_number(self.download_mib) or self.download_mib < 0):
            raise self._invalid("download_mib", f"is {self.download_mib!r}; give a number of MiB, or null")
        if self.source not in self.sources:
            raise self._invalid("source", f"is {self.source!r}; give one of {', '.join(self.sources) or 'none'}")
        for key, source in self.sources.items():
            if not isinstance(source, QuestionSource):
                raise self._invalid(f"sources.{key}", f"is {source!r}; give a source, with its _target_")
        for field in ("sizes", "sha256"):
            stated = dict(getattr(self, field))
            wrong = sorted(set(stated) ^ {TRAIN, *self.questions})
            if wrong:
                raise self._invalid(field, f"has to have {', '.join((TRAIN, *self.questions))}; see {wrong[0]!r}")
            object.__setattr__(self, field, stated)
        for key, size in self.sizes.items():
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise self._invalid(f"sizes.{key}", f"is {size!r}; give a whole number from 1, or null")

    @property
    def epochs(self) -> None:
        """None: the number of epochs is the recipe's."""
        return None

    @property
    def chosen(self) -> QuestionSource:
        """The source that is read."""
        return self.sources[self.source]

    @property
    @abstractmethod
    def tasks(self) -> Mapping[str, QuestionSet]:
        """What a run is judged by, by the name of the task, in the order of the paper's tables."""

    @abstractmethod
    def training(self, *, root: Path) -> tuple[Question, ...]:
        """Return the training questions in their order.

        Args:
            root: folder that relative paths of the source start from.

        Raises:
            DataError: if they are missing, malformed, have an unknown answer, or are not those stated.
        """

    def digests(self, *, root: Path) -> Mapping[str, str]:
        """Return the SHA-256 of the training questions and of the test questions of each task, as they are now."""
        tests = {name: digest_of(task.test(root=root)) for name, task in self.tasks.items()}
        return {TRAIN: digest_of(self.training(root=root)), **tests}

    def checked(self, key: str, questions: tuple[Question, ...]) -> tuple[Question, ...]:
        """Return questions (of ``train``, or the test questions of a task) that are as this description states them.

        Raises:
            DataError: for another number, an answer that the task (any task, in training) does not know, or another
                digest.
        """
        where = f"dataset {self.name}, {'training' if key == TRAIN else f'{key} test'} questions"
        stated = self.sizes[key]
        if stated is not None and len(questions) != stated:
            raise DataError(
                f"{where}: {self.chosen} holds {len(questions):,}, sizes states {stated:,}; the copy may be incomplete "
                f"or another version: fetch it again, or set dataset.sizes.{key} (null: not checked)"
            )
        asked = self.questions.values() if key == TRAIN else (self.questions[key],)
        check_answers(questions, dict.fromkeys(word for one in asked for word in one.answers), where=where)
        digest = self.sha256[key]
        if digest is not None and digest_of(questions) != digest:
            raise DataError(
                f"{where}: {self.chosen} holds {len(questions):,} questions as stated, but their digest is "
                f"{digest_of(questions)} and not {digest}: their texts or their order differ; fetch them again, or set "
                f"dataset.sha256.{key}=null"
            )
        return questions

    def _invalid(self, field: str, problem: str) -> ValueError:
        return ValueError(f"dataset {self.name}: {field} {problem}")


@dataclass(frozen=True, kw_only=True)
class QuestionSet(LanguageDataset):
    """One task: it is trained on and judged by; ``questions`` has it alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.questions) != 1:
            raise self._invalid("questions", f"has {', '.join(self.questions) or 'none'}; give those of one task")

    @property
    def tasks(self) -> Mapping[str, QuestionSet]:
        """Itself alone."""
        return {self._task.name: self}

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer words that the published extraction looks for, in its order."""
        return tuple(self._task.answers)

    def training(self, *, root: Path) -> tuple[Question, ...]:
        """Return the training questions; see :class:`LanguageDataset`."""
        return self.checked(TRAIN, self.chosen.task(self._task.folder, TRAIN, root=root))

    def test(self, *, root: Path) -> tuple[Question, ...]:
        """Return the test questions in their published order; arguments and errors as of ``training``."""
        return self.checked(self._task.name, self.chosen.task(self._task.folder, "test", root=root))

    @property
    def _task(self) -> Questions:
        return next(iter(self.questions.values()))


@dataclass(frozen=True, kw_only=True)
class QuestionMix(LanguageDataset):
    """Several tasks: trained on together, judged one by one.

    Attributes:
        mix: the file of training questions that the source holds, such as ``commonsense_170k``; None: the training
            questions of the tasks, one task after another.
        draw: a part of them to train on; None: all.
    """

    mix: str | None
    draw: Draw | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "mix", optional=True)

    @property
    def tasks(self) -> Mapping[str, QuestionSet]:
        """The tasks, read from the source of the mix."""
        return {
            name: QuestionSet(
                name=name,
                title=one.title,
                version=self.version,
                source=self.source,
                sources=self.sources,
                sizes={TRAIN: None, name: self.sizes[name]},
                sha256={TRAIN: None, name: self.sha256[name]},
                download_mib=None,
                licence=self.licence,
                citation=self.citation,
                questions={name: one},
            )
            for name, one in self.questions.items()
        }

    def training(self, *, root: Path) -> tuple[Question, ...]:
        """Return the training questions; see :class:`LanguageDataset`."""
        if self.mix is None:
            found = tuple(question for task in self.tasks.values() for question in task.training(root=root))
        else:
            found = self.chosen.mix(self.mix, root=root)
        if self.draw is not None:
            found = self.draw.of(found, where=f"dataset {self.name}")
        return self.checked(TRAIN, found)
