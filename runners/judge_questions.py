"""Evaluation of a language model on multiple-choice questions by both scorers; may be stopped and goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from randlora.data.errors import DataError
from randlora.data.question import Question, check_answers, digest_of, options
from randlora.tasks.answers import AnswerProtocol
from randlora.tasks.generation import Generated, generate_texts
from randlora.tasks.likelihood import OptionScore, Scored, option_log_likelihoods
from randlora.tasks.prompt_batches import ScoresError, token_ids
from runners.interrupt import Interrupted
from runners.judge_partial import PartialAnswers
from runners.judged_table import Asked, metrics_of, table_of
from runners.trainer import DivergenceError
from runners.workload import Judged, OnJudged

COMPLETION = "the correct answer is "
OnBatch = Callable[[Sequence[int], Sequence[Any]], None]


def judge_questions(
    model: nn.Module,
    tokenizer: Any,
    tasks: Mapping[str, tuple[Sequence[Question], Sequence[str]]],
    *,
    protocol: AnswerProtocol,
    batch_size: int,
    folder: Path,
    run: str,
    stop: Callable[[], bool],
    progress: OnJudged = lambda scorer, done, total: None,
) -> Judged:
    """Put every question of every task to a model whose adapters are merged.

    Metrics are shares from 0 to 1 by ``<task>/<metric>``, and their unweighted means over the tasks by
    ``average/<metric>``; docs/COMMONSENSE.md lists them. The frame has one row per question, in the order of the tasks.
    Finished batches are kept in a file in ``folder``; who calls removes it with
    `clear_answers` once the result is safe.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        tasks: by the key of each task its questions, and the words that are looked for in a generated text in their
            order.
        protocol: how they are put and answers are read.
        batch_size: questions at a time; halved, with a note, where memory does not hold them.
        folder: where finished questions are kept.
        run: identity of the run; what another run left there is not used.
        stop: asked before every batch.
        progress: told the scorer, the questions it is done with, and how many there are.

    Raises:
        DataError: if there is no question, or an answer is none of those that its question offers.
        DivergenceError: if the model's scores are not finite.
        Interrupted: if asked to stop; what is done is on disk.
    """
    asked = _asked(tasks)
    prompts = [protocol.prompt.evaluation(one.question) for one in asked]
    partial = PartialAnswers(folder, run=_identity(run, protocol, asked))
    done, notes = partial.read()
    model.eval()
    generated, scored, halved = None, None, []
    try:
        judging = _Judging(
            model,
            tokenizer,
            partial=partial,
            batch_size=batch_size,
            protocol=protocol,
            stop=stop,
            progress=progress,
        )
        if "generation" in protocol.scorers:
            generated = judging.generate(prompts, done=done.get("generation", {}))
        if "likelihood" in protocol.scorers:
            completions = [[COMPLETION + word for word in one.offered] for one in asked]
            scored = judging.score(prompts, completions, done=done.get("likelihood", {}))
        halved = judging.notes
    except ScoresError as error:
        raise DivergenceError(f"the questions cannot be judged: {error}") from error
    frame = table_of(asked, generated, scored, protocol=protocol)
    notes += [note for note in halved if note not in notes]
    notes += _length_notes(model, tokenizer, prompts, protocol)
    notes += _alone_notes(generated, scored)
    return Judged(metrics=metrics_of(frame), frame=frame, notes=tuple(notes))


def clear_answers(folder: Path) -> None:
    """Remove what finished batches left in a folder."""
    PartialAnswers(folder, run="").clear()


class _Judging:
    """Both scorers over all questions, with what they have in common."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        partial: PartialAnswers,
        batch_size: int,
        protocol: AnswerProtocol,
        stop: Callable[[], bool],
        progress: OnJudged,
    ) -> None:
        self.model, self.tokenizer, self.partial, self.batch_size = model, tokenizer, partial, batch_size
        self.protocol, self.stop, self.progress = protocol, stop, progress
        self.notes: list[str] = []

    def generate(self, prompts: Sequence[str], *, done: Mapping[int, Mapping[str, Any]]) -> list[Generated]:
        known = {index: Generated(**one) for index, one in done.items()}
        return generate_texts(
            self.model,
            self.tokenizer,
            prompts,
            beams=self.protocol.beams,
            max_new_tokens=self.protocol.max_new_tokens,
            batch_size=self.batch_size,
            attention=self.protocol.attention,
            done=known,
            on_done=self._keeper("generation", known, len(prompts)),
            on_halved=self._halving("generation"),
        )

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[Sequence[str]],
        *,
        done: Mapping[int, Mapping[str, Any]],
    ) -> list[Scored]:
        known = {
            index: Scored(options=tuple(OptionScore(**option) for option in one["options"]), alone=one["alone"])
            for index, one in done.items()
        }
        return option_log_likelihoods(
            self.model,
            self.tokenizer,
            prompts,
            completions,
            batch_size=self.batch_size,
            attention=self.protocol.attention,
            done=known,
            on_done=self._keeper("likelihood", known, len(prompts)),
            on_halved=self._halving("likelihood"),
        )

    def _keeper(
        self, scorer: str, known: Mapping[int, Any], total: int
    ) -> Callable[[Sequence[int], Sequence[Any]], None]:
        finished = set(known)
        self.progress(scorer, len(finished), total)
        self._stop(scorer, len(finished), total)

        def keep(batch: Sequence[int], found: Sequence[Any]) -> None:
            self.partial.add(scorer, {index: asdict(one) for index, one in zip(batch, found, strict=True)})
            finished.update(batch)
            self.progress(scorer, len(finished), total)
            self._stop(scorer, len(finished), total)

        return keep

    def _stop(self, scorer: str, done: int, total: int) -> None:
        if done < total and self.stop():
            raise Interrupted(f"stopped in the {scorer} of {done} of {total} questions; run the same command to go on")

    def _halving(self, scorer: str) -> Callable[[int], None]:
        def halved(size: int) -> None:
            note = f"{scorer}: batches of {size} after memory did not hold {self.batch_size}"
            self.notes.append(note)
            self.partial.note(note)

        return halved


def _asked(tasks: Mapping[str, tuple[Sequence[Question], Sequence[str]]]) -> list[Asked]:
    found = []
    for task, (questions, words) in tasks.items():
        if not questions:
            raise DataError(f"{task} has no question, so nothing can be said about it")
        check_answers(questions, words, where=task)
        for index, question in enumerate(questions):
            offered = options(question)
            check_answers([question], offered, where=f"{task}, place {index + 1}")
            found.append(Asked(task=task, index=index, question=question, answers=words, offered=offered))
    if not found:
        raise DataError("there is no task to be judged on")
    return found


def _identity(run: str, protocol: AnswerProtocol, asked: Sequence[Asked]) -> str:
    """Return what decides an answer: the run, how questions are put, and the questions."""
    questions = digest_of(one.question for one in asked)
    return f"{run} {protocol.beams} {protocol.max_new_tokens} {protocol.attention} {protocol.prompt!r} {questions}"


def _length_notes(model: Any, tokenizer: Any, prompts: Sequence[str], protocol: AnswerProtocol) -> list[str]:
    context = getattr(model.config, "max_position_embeddings", None)
    if context is None:
        return []
    longer = sum(len(ids) + protocol.max_new_tokens > context for ids in token_ids(tokenizer, prompts))
    if not longer:
        return []
    return [
        f"{longer} of {len(prompts)} prompts with their answers may exceed the {context} positions the model was "
        "trained for; they are put whole"
    ]


def _alone_notes(generated: Sequence[Generated] | None, scored: Sequence[Scored] | None) -> list[str]:
    notes = []
    for scorer, found in (("generation", generated), ("likelihood", scored)):
        alone = sum(one.alone for one in found or ())
        if alone:
            notes.append(
                f"{scorer}: {alone} of {len(found or ())} questions put again alone, since the batch could decide"
            )
    return notes
