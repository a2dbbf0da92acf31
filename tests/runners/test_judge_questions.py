"""Judging questions: metrics, resuming, notes and mistakes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest
import torch
from configs import ROOT, build

from randlora.data.alpaca import PromptForm
from randlora.data.errors import DataError
from randlora.data.question import Question
from randlora.tasks.answers import AnswerProtocol
from runners import judge_questions as judging
from runners.interrupt import Interrupted
from runners.judge_partial import NAME, PartialAnswers
from runners.judge_questions import clear_answers, judge_questions
from runners.judged_table import metrics_of
from runners.trainer import DivergenceError
from runners.workload import Judged

PROTOCOL = AnswerProtocol(
    beams=2,
    max_new_tokens=3,
    scorers=("generation", "likelihood"),
    prompt=PromptForm(form="indented"),
    response="last",
    attention="all",
)
Tasks = dict[str, tuple[list[Question], tuple[str, ...]]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build("backbone", "stories260k").tokenizer(root=ROOT)


def fresh() -> Any:
    return build("backbone", "stories260k").build(root=ROOT, device=torch.device("cpu"))


@cache
def untouched() -> Any:
    return fresh()


@cache
def tasks() -> Tasks:
    sets = build("dataset", "micro_commonsense").tasks
    return {
        name: (sorted(sets[name].test(root=ROOT), key=lambda one: len(one.instruction))[:3], tuple(sets[name].answers))
        for name in ("boolq", "arc_easy")
    }


def judge(tokenizer: Any, folder: Path, *, model: Any = None, asked: Tasks | None = None, **changes: Any) -> Judged:
    settings: dict[str, Any] = {"protocol": PROTOCOL, "batch_size": 2, "run": "a", "stop": lambda: False} | changes
    return judge_questions(model or untouched(), tokenizer, asked or tasks(), folder=folder, **settings)


def stop_after(calls: int) -> Callable[[], bool]:
    left = [calls]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop


def table(**changes: Any) -> pd.DataFrame:
    columns = {
        "task": ["x", "x", "x", "x", "y"],
        "index": [0, 1, 2, 3, 0],
        "answer": ["true", "true", "true", "false", "a"],
        "options": [["true", "false"]] * 4 + [["a", "b", "c", "d"]],
        "extracted": ["true", "false", "", "false", "b"],
        "log_probability": [[-1.0, -9.0]] * 4 + [[-4.0, -2.0, -4.0, -4.0]],
        "tokens": [[2, 3]] * 4 + [[4, 4, 4, 4]],
        "likelihood": ["true", "true", "true", "true", "b"],
        "likelihood_normalised": ["false", "true", "false", "false", "a"],
    }
    return pd.DataFrame(columns | changes)


def test_metrics_are_what_they_are_called() -> None:
    found = metrics_of(table())
    assert {name: found[f"x/{name}"] for name in ("accuracy", "no_match", "likelihood", "likelihood_normalised")} == {
        "accuracy": 0.5,
        "no_match": 0.25,
        "likelihood": 0.75,
        "likelihood_normalised": 0.5,
    }
    assert found["x/disagreement"] == 0.75  # an answer that was not found differs from every other
    assert (found["x/chance"], found["y/chance"]) == (0.5, 0.25)
    assert (found["x/majority"], found["y/majority"]) == (0.75, 1.0)


def test_the_answer_probability_is_a_mean_over_its_tokens() -> None:
    found = metrics_of(table())
    # three answers in x are the first option and one is the second; the one in y is the first
    assert found["x/answer_probability"] == pytest.approx(math.exp((3 * -1.0 - 9.0) / (3 * 2 + 3)))
    assert found["y/answer_probability"] == pytest.approx(math.exp(-4.0 / 4))


def test_averages_weigh_tasks_alike_whatever_their_size() -> None:
    found = metrics_of(table())
    assert found["average/accuracy"] == fmean([0.5, 0.0])
    assert found["average/likelihood_normalised"] == fmean([0.5, 1.0])
    names = {name.partition("/")[2] for name in found}
    assert {f"{task}/{name}" for task in ("x", "y", "average") for name in names} == set(found)


def test_a_scorer_that_did_not_run_has_no_metric() -> None:
    without = metrics_of(table().drop(columns=["likelihood", "likelihood_normalised"]))
    assert {name.partition("/")[2] for name in without} == {"accuracy", "no_match", "chance", "majority"}
    without = metrics_of(table().drop(columns=["extracted"]))
    assert {name.partition("/")[2] for name in without} == {
        "answer_probability",
        "likelihood",
        "likelihood_normalised",
        "chance",
        "majority",
    }


def test_every_question_has_a_row_from_which_the_metrics_follow(tokenizer: Any, tmp_path: Path) -> None:
    asked = tasks()
    found = judge(tokenizer, tmp_path, asked=asked)
    frame = found.frame
    assert found.metrics == metrics_of(frame)
    assert list(frame["task"]) == ["boolq"] * 3 + ["arc_easy"] * 3
    assert list(frame["index"]) == [0, 1, 2, 0, 1, 2]
    assert list(frame["answer"]) == [one.answer for questions, _ in asked.values() for one in questions]
    for row in frame.to_dict("records"):
        scores = [row["log_probability"], [a / b for a, b in zip(row["log_probability"], row["tokens"], strict=True)]]
        for name, values in zip(("likelihood", "likelihood_normalised"), scores, strict=True):
            assert row[name] == row["options"][max(range(len(values)), key=values.__getitem__)]
    assert all(0 <= value <= 1 for value in found.metrics.values())
    path = tmp_path / "frame.parquet"
    frame.to_parquet(path)
    assert metrics_of(pd.read_parquet(path)) == found.metrics


@pytest.mark.parametrize("scorer", ["generation", "likelihood"])
def test_one_scorer_may_run_alone(scorer: str, tokenizer: Any, tmp_path: Path) -> None:
    found = judge(tokenizer, tmp_path, protocol=dataclasses.replace(PROTOCOL, scorers=[scorer]))
    assert ("boolq/accuracy" in found.metrics) == (scorer == "generation")
    assert ("log_probability" in found.frame) == (scorer == "likelihood")


@pytest.mark.parametrize("after", [0, 2, 4])
def test_a_stopped_evaluation_goes_on_where_it_was(
    after: int, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = judge(tokenizer, tmp_path / "whole")
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="run the same command to go on"):
        judge(tokenizer, folder, stop=stop_after(after))
    lines = (folder / NAME).read_text().splitlines() if after else []
    assert len(lines) == 2 * after
    seen: list[int] = []
    add = PartialAnswers.add
    monkeypatch.setattr(
        PartialAnswers, "add", lambda self, scorer, found: (seen.extend(found), add(self, scorer, found))[1]
    )
    again = judge(tokenizer, folder)
    assert len(seen) == 12 - len(lines)
    assert again.metrics == whole.metrics
    pd.testing.assert_frame_equal(again.frame, whole.frame)
    clear_answers(folder)
    assert not list(folder.iterdir())


def test_a_torn_line_and_the_lines_of_others_are_not_used(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        judge(tokenizer, tmp_path, stop=stop_after(2))
    path = tmp_path / NAME
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-20], encoding="utf-8")
    done, _ = PartialAnswers(tmp_path, run=json.loads(whole.splitlines()[0])["run"]).read()
    assert len(done["generation"]) == 3
    progress: list[str] = []
    judge(tokenizer, tmp_path, run="b", stop=lambda: bool(progress.append("asked")))
    assert len(progress) == 6  # every batch of both scorers but the last is followed by a question, as is the start
    assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines()[4:])
    found = judge(tokenizer, tmp_path)
    assert found.metrics == judge(tokenizer, tmp_path / "other").metrics


@pytest.mark.parametrize("change", ["beams", "attention", "questions"])
def test_what_was_asked_otherwise_is_asked_again(change: str, tokenizer: Any, tmp_path: Path) -> None:
    judge(tokenizer, tmp_path)
    asked, protocol = tasks(), PROTOCOL
    if change == "beams":
        protocol = dataclasses.replace(protocol, beams=1)
    elif change == "attention":
        protocol = dataclasses.replace(protocol, attention="no_pad_id")
    else:
        questions, words = asked["boolq"]
        asked = {**asked, "boolq": (questions[::-1], words)}
    before = len((tmp_path / NAME).read_text().splitlines())
    judge(tokenizer, tmp_path, asked=asked, protocol=protocol)
    assert len((tmp_path / NAME).read_text().splitlines()) == 2 * before


def test_memory_that_ran_out_is_noted_even_after_a_stop(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from randlora.tasks.generation import _Search

    run = _Search.run

    def small(self: Any, encoded: Any) -> Any:
        if len(encoded) > 2:
            raise torch.OutOfMemoryError("full")
        return run(self, encoded)

    monkeypatch.setattr(_Search, "run", small)
    with pytest.raises(Interrupted):
        judge(tokenizer, tmp_path, batch_size=5, stop=stop_after(2))
    found = judge(tokenizer, tmp_path, batch_size=5)
    assert found.notes.count("generation: batches of 2 after memory did not hold 5") == 1
    alone = judge(tokenizer, tmp_path / "other", batch_size=1)
    assert found.metrics == pytest.approx(alone.metrics, rel=1e-4)  # probabilities differ in their last digits


def test_prompts_beyond_the_models_positions_are_noted_and_put_whole(tokenizer: Any, tmp_path: Path) -> None:
    assert not judge(tokenizer, tmp_path / "short").notes
    model = fresh()
    model.config.max_position_embeddings = 100
    (note,) = judge(tokenizer, tmp_path, model=model).notes
    assert note.startswith("6 of 6 prompts with their answers may exceed the 100 positions")


def test_questions_that_are_too_close_for_a_batch_are_noted(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from randlora.tasks import likelihood

    monkeypatch.setattr(likelihood, "TOLERANCE", 1e9)
    assert judge(tokenizer, tmp_path).notes == (
        "likelihood: 6 of 6 questions put again alone, since the batch could decide",
    )


def test_a_model_without_finite_scores_fails(tokenizer: Any, tmp_path: Path) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="the questions cannot be judged: the model's scores are not finite"):
        judge(tokenizer, tmp_path, model=model)


def test_answers_that_cannot_be_given_are_refused_before_anything_is_asked(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "generate_texts", None)
    asked = tasks()
    questions, words = asked["boolq"]
    unknown = dataclasses.replace(questions[1], answer="maybe")
    with pytest.raises(DataError, match=r"boolq: question 2, .* has the answer 'maybe'; valid: true, false"):
        judge(tokenizer, tmp_path, asked={"boolq": ([questions[0], unknown], words)})
    not_offered = dataclasses.replace(asked["arc_easy"][0][0], answer="answer5")
    with pytest.raises(DataError, match=r"arc_easy, place 1: .* has the answer 'answer5'; valid: answer1, "):
        judge(tokenizer, tmp_path, asked={"arc_easy": ([not_offered], asked["arc_easy"][1])})
    with pytest.raises(DataError, match="boolq has no question"):
        judge(tokenizer, tmp_path, asked={"boolq": ([], words)})


def test_progress_is_told(tokenizer: Any, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    judge(tokenizer, tmp_path, progress=lambda *told: seen.append(told))
    for scorer in ("generation", "likelihood"):
        assert [done for name, done, total in seen if name == scorer and total == 6] == [0, 2, 4, 6]
