"""Judged questions as a table, and the metrics that follow from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from randlora.data.question import Question
from randlora.tasks.answers import NO_ANSWER, AnswerProtocol, first_answer, response_of
from randlora.tasks.generation import Generated
from randlora.tasks.likelihood import Scored

if TYPE_CHECKING:
    import pandas as pd

AVERAGE = "average"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as it is put.

    Attributes:
        task: the key of its task.
        index: its place among the test questions of the task, from 0.
        question: the question.
        answers: the words that are looked for in a generated text, in their order.
        offered: the answers that it offers.
    """

    task: str
    index: int
    question: Question
    answers: Sequence[str]
    offered: tuple[str, ...]


def table_of(
    asked: Sequence[Asked],
    generated: Sequence[Generated] | None,
    scored: Sequence[Scored] | None,
    *,
    protocol: AnswerProtocol,
) -> pd.DataFrame:
    """Return one row per question: task, index, answer, options, and what each scorer made of it.

    Generation adds the text ``generated`` and the answer word ``extracted`` from it, empty where there is none.
    Likelihood adds the options' ``log_probability`` in nats and number of ``tokens``, the option that is most probable
    as ``likelihood`` and the one that is so per token as ``likelihood_normalised``.
    """
    import pandas as pd

    columns: dict[str, list[Any]] = {
        "task": [one.task for one in asked],
        "index": [one.index for one in asked],
        "answer": [one.question.answer for one in asked],
        "options": [list(one.offered) for one in asked],
    }
    if generated is not None:
        texts = [one.text for one in generated]
        columns["generated"] = texts
        columns["extracted"] = [
            first_answer(response_of(text, protocol.response), one.answers)
            for one, text in zip(asked, texts, strict=True)
        ]
    if scored is not None:
        pairs = list(zip(asked, scored, strict=True))
        columns["log_probability"] = [[option.log_probability for option in one.options] for one in scored]
        columns["tokens"] = [[option.tokens for option in one.options] for one in scored]
        columns["likelihood"] = [question.offered[one.best()] for question, one in pairs]
        columns["likelihood_normalised"] = [question.offered[one.best_per_token()] for question, one in pairs]
    return pd.DataFrame(columns)


def metrics_of(frame: pd.DataFrame) -> dict[str, float]:
    """Return the metrics of a table of judged questions.

    They are shares from 0 to 1 by ``<task>/<metric>``, and their unweighted means over the tasks by
    ``average/<metric>``; docs/COMMONSENSE.md says what each is.
    """
    found: dict[str, dict[str, float]] = {}
    for task, rows in frame.groupby("task", sort=False):
        found[str(task)] = _task_metrics(rows)
    names = list(next(iter(found.values())))
    averages = {name: fmean(values[name] for values in found.values()) for name in names}
    return {
        f"{task}/{name}": value
        for task, values in {**found, AVERAGE: averages}.items()
        for name, value in values.items()
    }


def _task_metrics(rows: pd.DataFrame) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if "extracted" in rows:
        metrics["accuracy"] = float((rows["extracted"] == rows["answer"]).mean())
        metrics["no_match"] = float((rows["extracted"] == NO_ANSWER).mean())
    if "likelihood" in rows:
        metrics["answer_probability"] = _answer_probability(rows)
        metrics["likelihood"] = float((rows["likelihood"] == rows["answer"]).mean())
        metrics["likelihood_normalised"] = float((rows["likelihood_normalised"] == rows["answer"]).mean())
    if "extracted" in rows and "likelihood" in rows:
        metrics["disagreement"] = float((rows["extracted"] != rows["likelihood"]).mean())
    metrics["chance"] = fmean(1 / len(offered) for offered in rows["options"])
    metrics["majority"] = max(Counter(rows["answer"]).values()) / len(rows)
    return metrics


def _answer_probability(rows: pd.DataFrame) -> float:
    """Return the geometric mean of the probabilities of the tokens of the right answers."""
    right = [list(offered).index(answer) for offered, answer in zip(rows["options"], rows["answer"], strict=True)]
    total = sum(scores[place] for scores, place in zip(rows["log_probability"], right, strict=True))
    return math.exp(total / sum(counts[place] for counts, place in zip(rows["tokens"], right, strict=True)))
