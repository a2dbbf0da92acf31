"""Multiple-choice questions in the form of LLM-Adapters: one, what a task asks, and reading many from JSON."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from randlora.checks import check_text
from randlora.data.errors import DataError, MissingError

FORMAT_LINE = "Answer format:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with its answer (paper, section C.4; records of LLM-Adapters).

    Attributes:
        instruction: the question, what is offered and, last, ``Answer format: a/b/c``.
        input: further context; empty in every commonsense record seen.
        output: what a model is trained to say, ``the correct answer is X``.
        answer: the answer word X, such as ``solution2``.
    """

    instruction: str
    input: str
    output: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked in one task, wherever its questions come from.

    Attributes:
        name: the key of the task in metrics, such as ``arc_easy``.
        title: its name for people, as in the paper's tables.
        folder: what LLM-Adapters calls it, such as ``ARC-Easy``.
        answers: the answer words that the published extraction looks for, in its order. A question may offer fewer
            (:func:`options`).
    """

    name: str
    title: str
    folder: str
    answers: Sequence[str]

    def __post_init__(self) -> None:
        check_text(self, "name", "title", "folder")
        words = self.answers
        if isinstance(words, str) or len(set(words)) < 2 or len(set(words)) < len(words):
            raise ValueError(f"questions {self.name}: answers = {words!r}; valid: a list of two or more distinct words")
        object.__setattr__(self, "answers", tuple(words))


FIELDS = tuple(field.name for field in fields(Question))


def options(question: Question) -> tuple[str, ...]:
    """Return the answer words that a question offers, in its order: those after its last ``Answer format:``.

    Raises:
        DataError: if there is no such text, or no word after it.
    """
    _, found, offered = question.instruction.rpartition(FORMAT_LINE)
    words = tuple(word.strip() for word in offered.split("/"))
    if not found or not all(words):
        raise DataError(
            f"the question {_start(question.instruction)} offers no answers; "
            f"its instruction has to end in '{FORMAT_LINE} a/b/c'"
        )
    return words


def read_questions(file: Path) -> tuple[Question, ...]:
    """Return the questions of a ``.json`` list, or of ``.jsonl`` or ``.jsonl.gz`` lines, in their order.

    Raises:
        DataError: if the file is missing, unreadable or empty, or a record is malformed; with its place.
    """
    if not file.is_file():
        raise MissingError(f"there is no file {file}")
    try:
        content = file.read_bytes()
        text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}; copy or download it again") from error
    if file.suffix == ".json":
        return parse_records(_json_list(text, file), where=lambda index: f"{file}, record {index + 1}", of=str(file))
    # not splitlines: a text may hold the other line ends of Unicode
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    records = [_json_line(line, f"{file}, line {number}") for number, line in lines]
    return parse_records(records, where=lambda index: f"{file}, line {lines[index][0]}", of=str(file))


def parse_records(records: Sequence[Any], *, where: Any, of: str) -> tuple[Question, ...]:
    """Return records as questions; fields beyond those of :class:`Question` are left out.

    Args:
        records: the records, in order.
        where: called with a record's index, returns what an error calls it.
        of: what an error calls all of them.

    Raises:
        DataError: if there are none, or one lacks a text or has an empty instruction, output or answer.
    """
    if not records:
        raise DataError(f"{of} holds no question")
    return tuple(_question(record, where, index) for index, record in enumerate(records))


def digest_of(questions: Iterable[Question]) -> str:
    """Return the SHA-256 of questions in their order, in hexadecimal: of one line of sorted JSON for each."""
    found = hashlib.sha256()
    for question in questions:
        found.update(json.dumps(asdict(question), sort_keys=True, ensure_ascii=False).encode("utf-8") + b"\n")
    return found.hexdigest()


def check_answers(questions: Sequence[Question], words: Iterable[str], *, where: str) -> None:
    """Raise DataError where a question has another answer than one of ``words``, which nothing could be judged by."""
    valid = tuple(words)
    known = frozenset(valid)
    for number, question in enumerate(questions, start=1):
        if question.answer not in known:
            raise DataError(
                f"{where}: question {number}, {_start(question.instruction)}, has the answer {question.answer!r}; "
                f"valid: {', '.join(valid)}"
            )


def _question(record: Any, where: Any, index: int) -> Question:
    if not isinstance(record, Mapping):
        raise DataError(f"{where(index)} is {_start(repr(record))}; it has to be an object with {', '.join(FIELDS)}")
    for name in FIELDS:
        if not isinstance(record.get(name), str):
            raise DataError(f"{where(index)} has no text {name!r}; it has to have {', '.join(FIELDS)}")
        if name != "input" and not record[name].strip():
            raise DataError(f"{where(index)} has an empty {name!r}; correct the record or take it out")
    return Question(**{name: record[name] for name in FIELDS})


def _json_list(text: str, file: Path) -> list[Any]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is no JSON: {error.msg} in line {error.lineno}; copy or download it again") from error
    if not isinstance(records, list):
        raise DataError(f"{file} holds a JSON {type(records).__name__}; it has to be a list of records")
    return records


def _json_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON: {error.msg}; copy or download the file again") from error


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
