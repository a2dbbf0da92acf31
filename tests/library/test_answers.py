"""Reading an answer from what a model wrote, as the published scripts do."""

from __future__ import annotations

from typing import Any

import pytest
from configs import ROOT, build

from randlora.data.alpaca import PromptForm
from randlora.tasks.answers import AnswerProtocol, first_answer, response_of

FOUR = ("answer1", "answer2", "answer3", "answer4", "answer5")


def protocol(**changes: Any) -> AnswerProtocol:
    fields: dict[str, Any] = {
        "beams": 4,
        "max_new_tokens": 32,
        "scorers": ["generation", "likelihood"],
        "prompt": PromptForm(form="indented"),
        "response": "last",
        "attention": "all",
    }
    return AnswerProtocol(**(fields | changes))


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("the correct answer is answer2", FOUR, "answer2"),
        ("not answer4 but answer1", FOUR, "answer4"),
        ("the correct answer is Answer2", FOUR, ""),
        ("answer 2", FOUR, ""),
        ("answer12", FOUR, "answer1"),
        ("answer5", FOUR, "answer5"),
        ("untrue", ("true", "false"), "true"),
        ("True or False", ("true", "false"), ""),
        ("", ("true", "false"), ""),
        ("a.b", ("axb", "a.b"), "a.b"),
        ("axb", ("a.b", "c"), ""),
    ],
)
def test_the_first_answer_word_counts_as_it_is_spelt(text: str, answers: tuple[str, ...], found: str) -> None:
    assert first_answer(text, answers) == found


def test_of_words_that_begin_alike_the_earlier_listed_one_is_found() -> None:
    assert first_answer("ending10", ("ending1", "ending10")) == "ending1"
    assert first_answer("ending10", ("ending10", "ending1")) == "ending10"


@pytest.mark.parametrize("answers", [(), ("",), ("true", "")])
def test_there_must_be_words_to_look_for(answers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="valid: the answer words of a task"):
        first_answer("true", answers)


def test_what_follows_another_marker_is_read_or_what_comes_before_it() -> None:
    written = "true\n\n ### Response:\n false "
    assert response_of(written, "last") == "false"
    assert response_of(written, "first") == "true"
    assert response_of("  \n true \n", "last") == response_of("  \n true \n", "first") == "true"
    assert response_of("", "last") == ""
    assert response_of("true\n### Response:", "last") == ""


@pytest.mark.parametrize(
    "continuation", ["the correct answer is solution2", "x ### Response: true", "", "\n### Response:"]
)
@pytest.mark.parametrize("task", ["boolq", "piqa"])
def test_the_last_response_is_that_of_the_decoded_whole(task: str, continuation: str) -> None:
    """The published scripts split prompt and continuation together; real prompts hold the marker once, at their end."""
    for one in build("dataset", "micro_commonsense").tasks[task].test(root=ROOT)[:20]:
        prompt = PromptForm(form="indented").evaluation(one)
        whole = prompt + continuation
        assert response_of(continuation, "last") == whole.split("### Response:")[-1].strip()
        assert response_of(continuation, "first") == whole.split("### Response:")[1].strip()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beams": 0}, "beams = 0; valid: a whole number of 1 or more"),
        ({"max_new_tokens": 1.5}, "max_new_tokens = 1.5"),
        ({"scorers": []}, "valid: one or both of generation, likelihood"),
        ({"scorers": "generation"}, "valid: one or both of generation, likelihood"),
        ({"scorers": ["guess"]}, "valid: one or both of generation, likelihood"),
        ({"response": "middle"}, "valid: 'last', 'first'"),
        ({"attention": "none"}, "valid: 'all', 'no_pad_id'"),
    ],
)
def test_a_protocol_refuses_what_it_does_not_know(wrong: dict[str, Any], message: str) -> None:
    assert protocol().beams == 4
    with pytest.raises(ValueError, match=message):
        protocol(**wrong)
