"""How a model is trained: every hyper-parameter that is neither the method's nor the data set's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from randlora.checks import check_choice, check_flag, check_positive, check_share, check_whole, is_number
from randlora.data.augment import Augmentation, Crop
from randlora.data.batches import BatchPlan
from randlora.tasks.base import Task

Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear", "constant"]
EvaluationSplit = Literal["test", "validation"]
Pixels = Literal["stored", "original"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Data budget, optimisation and evaluation of a run.

    Attributes:
        task: objective and head.
        shots: training images per class; None uses ``fraction``.
        fraction: share of the training images when ``shots`` is None.
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
        batch_size: images per optimizer step.
        micro_batch_size: images per forward pass; None for the whole batch. With ``negatives: batch`` it also limits
            the negatives.
        epochs: passes over the training images; see ``epochs_by_dataset``.
        epochs_by_dataset: without ``shots``, take the number of epochs from the data set, which states its own (paper
            Table 7); runs on few shots always take ``epochs`` (10 in the paper).
        min_steps_per_epoch: oversampling of small training sets (see :class:`randlora.data.batches.BatchPlan`).
        max_steps: stop (and end the schedule) after so many steps; None for no limit.
        replacement: draw with replacement.
        pixels: what training images are cropped from: ``stored`` (decoded and resized once; the crop is enlarged) or
            ``original`` (the full-size image, decoded each time, as torchvision does). Evaluation is the same.
        crop: see :class:`randlora.data.augment.Augmentation`.
        crop_padding: pixels, for ``crop: pad``.
        crop_scale: share of the area, for ``crop: resized``.
        flip: mirror half of the images.
        evaluate_on: ``test``, or ``validation`` images, which are never trained on.
        validation_per_class: how many training images of every class are held out when ``evaluate_on`` is
            ``validation``; 0: judge on the validation part of the data set.
    """

    task: Task
    shots: int | None
    fraction: float
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
    epochs_by_dataset: bool
    min_steps_per_epoch: int
    max_steps: int | None
    replacement: bool
    pixels: Pixels
    crop: Crop
    crop_padding: int
    crop_scale: Sequence[float]
    flip: bool
    evaluate_on: EvaluationSplit
    validation_per_class: int

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "head_learning_rate")
        check_whole(self, "batch_size", "epochs")
        for name in ("shots", "max_steps", "micro_batch_size"):
            if getattr(self, name) is not None:
                check_whole(self, name)
        if self.clip_norm is not None:
            check_positive(self, "clip_norm")
        check_choice(self, "optimizer", ("adamw", "muon"))
        check_choice(self, "schedule", ("cosine", "linear", "constant"))
        check_choice(self, "pixels", ("stored", "original"))
        check_choice(self, "crop", ("none", "pad", "resized"))
        check_choice(self, "evaluate_on", ("test", "validation"))
        check_share(self, "fraction", zero=False)
        check_share(self, "final_fraction")
        check_whole(self, "warmup_steps", "min_steps_per_epoch", "crop_padding", "validation_per_class", least=0)
        check_flag(self, "epochs_by_dataset", "replacement", "flip")
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            raise ValueError(f"Recipe.weight_decay = {self.weight_decay!r}; valid: a number of 0 or more")
        self._check_pair("betas", "two numbers from 0 and below 1", lambda one, two: 0 <= one < 1 and 0 <= two < 1)
        self._check_pair("crop_scale", "two numbers, 0 < low <= high <= 1", lambda low, high: 0 < low <= high <= 1)

    def for_dataset(self, name: str, *, epochs: int | None) -> Recipe:
        """Return the recipe with the number of epochs it has on a data set that states ``epochs`` of its own, or None.

        Raises:
            ValueError: if the recipe takes them from the data set and the data set states none.
        """
        if not self.epochs_by_dataset or self.shots is not None:
            return dataclasses.replace(self, epochs_by_dataset=False)
        if epochs is None:
            raise ValueError(
                f"dataset {name} states no number of epochs, which the recipe takes from it without shots; set "
                "recipe.epochs_by_dataset=false recipe.epochs=… or dataset.epochs=…"
            )
        return dataclasses.replace(self, epochs=epochs, epochs_by_dataset=False)

    @property
    def augmentation(self) -> Augmentation:
        """How training images are altered."""
        low, high = self.crop_scale
        return Augmentation(crop=self.crop, crop_padding=self.crop_padding, crop_scale=(low, high), flip=self.flip)

    def plan(self, n: int, *, seed: int) -> BatchPlan:
        """Return which of ``n`` training images form which batch."""
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
            raise ValueError(f"Recipe.{name} = {value!r}; valid: {valid}")
        object.__setattr__(self, name, pair)
