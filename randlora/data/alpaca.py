"""The prompts of the published commonsense scripts, byte for byte (paper, section C.4; their ``generate_prompt``).

The published training text and evaluation prompt differ, in two places, and that is kept:

- the first sentence of a question without input ends in two spaces in training and in one in evaluation (with input:
  in one and in none);
- the line between two parts is 16 spaces in training and empty in evaluation.

A model is so never asked in the exact form that it was trained on. Every record of the commonsense sets has an empty
input; the published evaluation would leave another one out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from randlora.checks import check_choice
from randlora.data.question import Question

Form = Literal["indented", "plain"]
FORMS: tuple[Form, ...] = ("indented", "plain")
INDENT = " " * 16
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True, kw_only=True)
class PromptForm:
    """How a question becomes text.

    Attributes:
        form: ``indented``: as the published scripts have it, every line but the first after 16 spaces and no two
            prompts alike in training and evaluation; ``plain``: the same words without any of these spaces, alike in
            training and evaluation.

    Raises:
        ValueError: for another form.
    """

    form: Form

    def __post_init__(self) -> None:
        check_choice(self, "form", FORMS)

    def training(self, question: Question) -> tuple[str, str]:
        """Return prompt and completion, which follow each other directly in the text that is trained on."""
        spaces = 1 if question.input else 2
        return self._prompt(question, spaces=spaces, between=INDENT), question.output

    def evaluation(self, question: Question) -> str:
        """Return the prompt that a model completes when it is judged."""
        return self._prompt(question, spaces=0 if question.input else 1, between="")

    def _prompt(self, question: Question, *, spaces: int, between: str) -> str:
        sentence = WITH_INPUT if question.input else WITHOUT_INPUT
        parts = {"Instruction": question.instruction}
        if question.input:
            parts["Input"] = question.input
        if self.form == "plain":
            indent, between, spaces = "", "", 0
        else:
            indent = INDENT
        # only the first line of a text is indented: its own line breaks stay as they are
        blocks = [f"{indent}### {name}:\n{indent}{text}\n{between}\n" for name, text in parts.items()]
        return f"{sentence}{' ' * spaces}\n\n{''.join(blocks)}{indent}### Response:\n{indent}"
