"""Questions of a run: drawn, tokenised, trained on, and answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from randlora.data.encode import Example, encode
from randlora.data.errors import DataError
from randlora.data.question import digest_of
from randlora.data.questions_split import split_validation
from randlora.data.text_feed import TextFeed
from randlora.inject import Adaptation
from randlora.seeds import generator_for, seed_for
from randlora.tasks.next_token import mean_loss
from runners.judge_questions import clear_answers, judge_questions
from runners.machine import ROOT
from runners.plan import QuestionRun
from runners.progress import counted
from runners.selection import Selection
from runners.workload import Judged, LogStep, OnJudged, Workload

if TYPE_CHECKING:
    from torch import nn

    from randlora.data.question import Question

BEST = "best.pt"


class QuestionWorkload(Workload):
    """See :class:`runners.workload.Workload`.

    Training questions are read when they are first asked for, so a run that trains nothing needs none; test questions
    when the model is judged.

    Args:
        run: the run.
        model: its language model.
        folder: where the run keeps what it continues from.
        device: where it trains.
        stop: asked between batches of the evaluation.
        on_judged: told the scorer, the questions that are judged, and how many there are.

    Raises:
        WeightsError: if the model has no tokenizer.
    """

    def __init__(
        self,
        run: QuestionRun,
        model: nn.Module,
        *,
        folder: Path,
        device: torch.device,
        stop: Callable[[], bool],
        on_judged: OnJudged,
    ) -> None:
        self.run = run
        self.folder = folder
        self.device = device
        self.stop = stop
        self.on_judged = on_judged
        self.tokenizer = run.backbone.tokenizer(root=ROOT)
        self.objective = run.recipe.task.build(backbone=run.backbone, model=model)
        self.digests: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()

    def adapt(self, adaptation: Adaptation) -> None:
        """Set the dropout of adapters."""
        adaptation.drop_inputs(self.run.recipe.dropout)

    @property
    def feed(self) -> TextFeed:
        """The training questions."""
        return self._feed

    @cached_property
    def _feed(self) -> TextFeed:
        recipe = self.run.recipe
        kept = self._parts[0]
        if recipe.questions is not None:
            if recipe.questions > len(kept):
                raise DataError(
                    f"dataset {self.run.dataset.name}: recipe.questions={recipe.questions:,}, but there are "
                    f"{len(kept):,} training questions beside the {recipe.validation:,} held out; ask for fewer"
                )
            order = torch.randperm(len(kept), generator=generator_for(seed_for(self.run.seed, "data"), "questions"))
            kept = [kept[index] for index in order[: recipe.questions].tolist()]
        return self._texts(self._encoded(kept, "training"))

    def selection(self, *, log: LogStep) -> Selection | None:
        """Return what keeps the step of the lowest validation loss, where the recipe asks for it."""
        recipe = self.run.recipe
        if recipe.select == "last":
            return None
        size = recipe.micro_batch_size or recipe.batch_size
        examples = sorted(self._encoded(self._parts[1], "validation"), key=lambda example: len(example.ids))
        feed = self._texts(examples)
        batches: list[tuple[torch.Tensor, ...]] = [
            feed.collate(examples[start : start + size]) for start in range(0, len(examples), size)
        ]
        return Selection(
            self.folder / BEST,
            run=self.run.id,
            every=recipe.validate_every,
            measure=lambda: mean_loss(self.objective, batches),
            log=log,
        )

    def judge(self) -> Judged:
        """Let the model answer the questions it is judged by."""
        dataset, recipe, root = self.run.dataset, self.run.recipe, self.run.machine.data_path
        if recipe.evaluate_on == "validation":
            words = dict.fromkeys(word for task in dataset.tasks.values() for word in task.answers)
            tasks = {"validation": (self._parts[1], tuple(words))}
        else:
            tasks = {name: (list(task.test(root=root)), task.answers) for name, task in dataset.tasks.items()}
            self.digests |= {name: digest_of(questions) for name, (questions, _) in tasks.items()}
        return judge_questions(
            self.objective.model,
            self.tokenizer,
            tasks,
            protocol=recipe.task.protocol,
            batch_size=self.run.machine.answering_batch_size,
            folder=self.folder,
            run=self.run.id,
            stop=self.stop,
            progress=self.on_judged,
        )

    def clear(self) -> None:
        """Remove the answers and the tensors kept for a continuation."""
        clear_answers(self.folder)
        (self.folder / BEST).unlink(missing_ok=True)

    @cached_property
    def _parts(self) -> tuple[list[Question], list[Question]]:
        """The training questions, and those held out."""
        recipe, questions = self.run.recipe, self.run.dataset.training(root=self.run.machine.data_path)
        self.digests["train"] = digest_of(questions)
        if recipe.validation == 0:
            return list(questions), []
        kept, held = split_validation(len(questions), recipe.validation, recipe.validation_seed)
        return [questions[index] for index in kept], [questions[index] for index in held]

    def _encoded(self, questions: Sequence[Question], part: str) -> list[Example]:
        """Return questions as tokens; what became of those longer than the cutoff is noted."""
        recipe, task = self.run.recipe, self.run.recipe.task
        examples = []
        for question in counted(questions, f"tokenising {part} questions"):
            prompt, completion = task.protocol.prompt.training(question)
            examples.append(
                encode(
                    self.tokenizer,
                    prompt,
                    completion,
                    cutoff=recipe.cutoff,
                    append_eos=task.append_eos,
                    loss_on=task.loss_on,
                )
            )
        long = sum(example.truncated for example in examples)
        if long == 0:
            return examples
        share = f"{long:,} of {len(examples):,} {part} texts were longer than the cutoff of {recipe.cutoff} tokens"
        if recipe.too_long == "error":
            raise DataError(f"{share}; raise recipe.cutoff, or set recipe.too_long to truncate or leave_out")
        if recipe.too_long == "leave_out":
            examples = [example for example in examples if not example.truncated]
            if not examples:
                raise DataError(f"{share}, and no other is left; raise recipe.cutoff")
            self.notes += (f"{share} and were left out",)
            return examples
        idle = sum(not example.has_loss for example in examples)
        without = f"; {idle:,} are left without a token to learn" if idle else ""
        self.notes += (f"{share} and were truncated{without}",)
        return examples

    def _texts(self, examples: Sequence[Example]) -> TextFeed:
        padding = self.tokenizer.pad_token_id
        assert isinstance(padding, int)
        return TextFeed(examples, padding=padding, side=self.run.recipe.task.padding_side, device=self.device)
