"""How a language model is trained on questions: every choice that is neither the method's nor the data set's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from randlora.checks import check_choice, check_share, check_whole
from randlora.tasks.next_token import InstructionTuning
from randlora.training import Training

TooLong = Literal["truncate", "leave_out", "error"]
Select = Literal["last", "best_validation"]


@dataclass(frozen=True, kw_only=True)
class TextRecipe(Training):
    """Data budget, optimisation and evaluation of a run on questions (paper section C.4 and its released scripts).

    Attributes:
        task: form of the texts, loss, and how answers are judged.
        questions: training questions, a seeded draw of which smaller ones are part of larger ones; None for all.
        validation: how many training questions are held out.
        validation_seed: of that split, the same for every seed of a run; 42 in the released scripts.
        cutoff: the most tokens of a training text.
        too_long: what becomes of longer ones: ``truncate`` (the released scripts; the answer at the end is lost),
            ``leave_out``, or an ``error``. How many there were is noted in the record.
        dropout: probability with which an adapter's input is set to zero in training (full fine-tuning has none).
        select: the tensors that are judged: those after the ``last`` step, or those with the lowest loss on the
            validation questions (``best_validation``, the paper's early stopping).
        validate_every: steps between looks at the validation loss.
    """

    task: InstructionTuning
    questions: int | None
    validation: int
    validation_seed: int
    cutoff: int
    too_long: TooLong
    dropout: float
    select: Select
    validate_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions is not None:
            check_whole(self, "questions")
        check_whole(self, "cutoff", "validate_every")
        check_whole(self, "validation", "validation_seed", least=0)
        check_choice(self, "too_long", ("truncate", "leave_out", "error"))
        check_choice(self, "select", ("last", "best_validation"))
        check_share(self, "dropout", one=False)
        for field, value in (("select", "best_validation"), ("evaluate_on", "validation")):
            if getattr(self, field) == value and self.validation == 0:
                raise ValueError(
                    f"TextRecipe.{field} = {value!r}, but no question is held out; set recipe.validation=120"
                )

    def for_dataset(self, name: str, *, epochs: int | None) -> Self:
        """Return the recipe: a data set of questions changes nothing in it."""
        return self
