"""How a model is trained, whatever it is trained on: optimisation, schedule and batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from randlora.checks import check_choice, check_flag, check_positive, check_share, check_whole, is_number
from randlora.data.batches import BatchPlan
from randlora.tasks.base import Task

Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "constant"]
EvaluationSplit = Literal["test", "validation"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The part of a recipe that images and texts have in common.

    Attributes:
        task: what is trained for, and how it is judged.
        optimizer: ``adamw``, or ``muon`` for matrices inside transformer blocks with AdamW for everything else.
        learning_rate: peak rate of the backbone's trained parameters.
        head_learning_rate: peak rate of a trained head.
        weight_decay: decoupled, applied to every trained tensor (so also to Lambda and Gamma, as in the released code).
        betas: AdamW's two.
        schedule: ``cosine`` or ``linear`` from the peak to ``final_fraction`` of it, or ``constant``; after the
            warm-up.
        warmup_steps: steps of linear warm-up.
        final_fraction: share of the peak rate at the end (0.01 in the paper).
        clip_norm: largest norm of the gradient; None for no clipping.
        batch_size: samples per optimizer step.
        micro_batch_size: samples per forward pass; None for the whole batch.
        epochs: passes over the training samples.
        min_steps_per_epoch: oversampling of small training sets (see :class:`randlora.data.batches.BatchPlan`).
        max_steps: stop (and end the schedule) after so many steps; None for no limit.
        replacement: draw with replacement.
        evaluate_on: ``test``, or ``validation`` samples, which are never trained on.
    """

    task: Task
    optimizer: Optimizer
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    betas: Sequence[float]
    schedule: Schedule
    warmup_steps: int
    final_fraction: float
    clip_norm: float | None
    batch_size: int
    micro_batch_size: int | None
    epochs: int
    min_steps_per_epoch: int
    max_steps: int | None
    replacement: bool
    evaluate_on: EvaluationSplit

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "head_learning_rate")
        check_whole(self, "batch_size", "epochs")
        for name in ("max_steps", "micro_batch_size"):
            if getattr(self, name) is not None:
                check_whole(self, name)
        if self.clip_norm is not None:
            check_positive(self, "clip_norm")
        check_choice(self, "optimizer", ("adamw", "muon"))
        check_choice(self, "schedule", ("cosine", "linear", "constant"))
        check_choice(self, "evaluate_on", ("test", "validation"))
        check_share(self, "final_fraction")
        check_whole(self, "warmup_steps", "min_steps_per_epoch", least=0)
        check_flag(self, "replacement")
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            name = type(self).__name__
            raise ValueError(f"{name}.weight_decay = {self.weight_decay!r}; valid: a number of 0 or more")
        self._check_pair("betas", "two numbers from 0 and below 1", lambda one, two: 0 <= one < 1 and 0 <= two < 1)

    def plan(self, n: int, *, seed: int) -> BatchPlan:
        """Return which of ``n`` training samples form which batch."""
        return BatchPlan(
            n=n,
            batch_size=self.batch_size,
            epochs=self.epochs,
            min_steps_per_epoch=self.min_steps_per_epoch,
            seed=seed,
            replacement=self.replacement,
        )

    def total_steps(self, plan: BatchPlan) -> int:
        """Return the number of optimizer steps of a run."""
        return plan.total_steps if self.max_steps is None else min(plan.total_steps, self.max_steps)

    def rate_factor(self, step: int, total: int) -> float:
        """Return the share of the peak learning rate at a step (counted from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        fall = 0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1 - progress
        return self.final_fraction + (1 - self.final_fraction) * fall

    def _check_pair(self, name: str, valid: str, fits: Callable[[float, float], bool]) -> None:
        value = getattr(self, name)
        pair = tuple(value) if isinstance(value, Sequence) else ()
        if len(pair) != 2 or not all(map(is_number, pair)) or not fits(*pair):
            raise ValueError(f"{type(self).__name__}.{name} = {value!r}; valid: {valid}")
        object.__setattr__(self, name, pair)
