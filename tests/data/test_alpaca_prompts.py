"""The published prompts, byte for byte, and where training and evaluation differ."""

from __future__ import annotations

import pytest
from tiny_questions import NAMES, ROOT, ask, dataset_of

from randlora.data.alpaca import PromptForm
from randlora.data.question import Question

INDENTED, PLAIN = PromptForm(form="indented"), PromptForm(form="plain")
BOOLQ = Question(
    instruction="Please answer the following question with true or false, question: is it?\n\n"
    "Answer format: true/false",
    input="",
    output="the correct answer is true",
    answer="true",
)
TRAINING = (
    b"Below is an instruction that describes a task. Write a response that appropriately completes the request.  \n"
    b"\n"
    b"                ### Instruction:\n"
    b"                Please answer the following question with true or false, question: is it?\n"
    b"\n"
    b"Answer format: true/false\n"
    b"                \n"
    b"                ### Response:\n"
    b"                the correct answer is true"
)
EVALUATION = (
    b"Below is an instruction that describes a task. Write a response that appropriately completes the request. \n"
    b"\n"
    b"                ### Instruction:\n"
    b"                Please answer the following question with true or false, question: is it?\n"
    b"\n"
    b"Answer format: true/false\n"
    b"\n"
    b"                ### Response:\n"
    b"                "
)


def test_training_text_is_the_published_one() -> None:
    prompt, completion = INDENTED.training(BOOLQ)
    assert (prompt + completion).encode() == TRAINING
    assert completion == "the correct answer is true"
    assert prompt.endswith("### Response:\n" + " " * 16)


def test_evaluation_prompt_is_the_published_one() -> None:
    assert INDENTED.evaluation(BOOLQ).encode() == EVALUATION


def test_training_and_evaluation_differ_by_a_space_and_an_indented_empty_line() -> None:
    trained, asked = INDENTED.training(BOOLQ)[0], INDENTED.evaluation(BOOLQ)
    assert trained != asked
    closer = trained.replace("request.  \n", "request. \n")
    assert closer != asked
    assert closer.replace("true/false\n" + " " * 16 + "\n", "true/false\n\n") == asked


def test_a_question_with_input_has_the_published_form() -> None:
    question = ask(input="4 is 2 + 2", instruction="Is 4 even?")
    prompt, completion = INDENTED.training(question)
    start = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
    )
    i = " " * 16
    assert prompt == (
        f"{start} \n\n{i}### Instruction:\n{i}Is 4 even?\n{i}\n{i}### Input:\n{i}4 is 2 + 2\n{i}\n{i}### Response:\n{i}"
    )
    assert completion == question.output
    assert INDENTED.evaluation(question) == (
        f"{start}\n\n{i}### Instruction:\n{i}Is 4 even?\n\n{i}### Input:\n{i}4 is 2 + 2\n\n{i}### Response:\n{i}"
    )


def test_the_plain_form_has_the_same_words_and_is_alike_in_training_and_evaluation() -> None:
    for question in (BOOLQ, ask(input="4 is 2 + 2")):
        prompt, completion = PLAIN.training(question)
        assert prompt == PLAIN.evaluation(question)
        assert completion == question.output
        assert (prompt + completion).split() == "".join(INDENTED.training(question)).split()
        assert " \n" not in prompt
        assert "\n " not in prompt
    assert prompt.endswith("### Response:\n")


def test_the_answer_is_all_that_an_evaluation_prompt_lacks_of_every_embedded_question() -> None:
    tasks = dataset_of("micro_commonsense").tasks
    assert tuple(tasks) == NAMES
    for task in tasks.values():
        for question in task.test(root=ROOT):
            asked = INDENTED.evaluation(question)
            assert question.output not in asked
            assert asked.count("### Response:") == 1
            assert (asked + question.output).split() == "".join(INDENTED.training(question)).split()


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"PromptForm.form = 'chat'; valid: 'indented', 'plain'"):
        PromptForm(form="chat")  # type: ignore[arg-type]
