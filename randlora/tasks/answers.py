"""How an answer is read from what a language model says, as the published scripts read it.

The published ``commonsense_evaluate.py`` decodes prompt and continuation together, keeps what follows the last
``### Response:`` and takes the first of the task's answer words in it, case-sensitively. Where there is none, the
answer is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from randlora.checks import check_choice, check_whole

if TYPE_CHECKING:
    from randlora.data.alpaca import PromptForm

Scorer = Literal["generation", "likelihood"]
Response = Literal["last", "first"]
Attention = Literal["all", "no_pad_id"]
SCORERS: tuple[Scorer, ...] = ("generation", "likelihood")
MARKER = "### Response:"
NO_ANSWER = ""


@dataclass(frozen=True, kw_only=True)
class AnswerProtocol:
    """How questions are put and answers are read.

    Attributes:
        beams: of the beam search; 4 in the published scripts.
        max_new_tokens: tokens generated at most; 32 in the published scripts.
        scorers: ``generation``: the paper's; ``likelihood``: the option that the model finds most probable.
        prompt: the form of the prompt.
        response: which response is read where the model writes another ``### Response:``: the ``last`` (DoRA's and
            RandLoRA's scripts) or the ``first`` (LLM-Adapters' script).
        attention: the tokens of the prompt that the model sees: ``all``, or all but those with the id 0
            (``no_pad_id``). RandLoRA's script pads with the id 0 and gives no mask, so that transformers takes every
            token of that id for padding; it is ``!`` in the vocabularies of Llama-3 and Qwen2.
    """

    beams: int
    max_new_tokens: int
    scorers: Sequence[Scorer]
    prompt: PromptForm
    response: Response
    attention: Attention

    def __post_init__(self) -> None:
        check_whole(self, "beams", "max_new_tokens")
        check_choice(self, "response", ("last", "first"))
        check_choice(self, "attention", ("all", "no_pad_id"))
        listed = isinstance(self.scorers, Sequence) and not isinstance(self.scorers, str)
        if not listed or not self.scorers or not set(self.scorers) <= set(SCORERS):
            raise ValueError(f"AnswerProtocol.scorers = {self.scorers!r}; valid: one or both of {', '.join(SCORERS)}")


def response_of(continuation: str, response: Response) -> str:
    """Return the part of a continuation that is read, without the blanks around it.

    The prompt ends with ``### Response:`` and blanks, so the last (first) part of the decoded whole is the last (first)
    part of the continuation.
    """
    return continuation.split(MARKER)[-1 if response == "last" else 0].strip()


def first_answer(text: str, answers: Sequence[str]) -> str:
    """Return the answer word that is found first in a text, an empty string where there is none.

    The words are tried in their order at every position, so where one begins another the earlier one is found. They are
    found inside longer words as well: ``untrue`` holds ``true``.

    Raises:
        ValueError: if there are no answer words.
    """
    if not answers or not all(answers):
        raise ValueError(f"answers = {tuple(answers)!r}; valid: the answer words of a task, none of them empty")
    found = re.search("|".join(map(re.escape, answers)), text)
    return NO_ANSWER if found is None else found.group()
