"""What decides the memory and the operations of a training step: of one on images, and of one on texts."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from randlora.tasks.base import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn

    from randlora.adapter import Method
    from randlora.backbones.base import Backbone, ImageBackbone, LanguageBackbone
    from randlora.execution import Execution
    from randlora.inject import Adaptation
    from randlora.recipe import Recipe
    from randlora.tasks.base import Objective
    from randlora.text_recipe import TextRecipe
    from randlora.training import Training

DeviceKind = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
Batch = tuple["Tensor", ...]


@dataclass(frozen=True, kw_only=True)
class StepShape(ABC):
    """What decides the memory and the operations of a training step; no weights, no data.

    Attributes:
        backbone: the model.
        method: the method at its size.
        recipe: task, optimizer, batch and micro-batch.
        execution: how adapters run.
        recompute_blocks: keep only the inputs of transformer blocks, see :class:`runners.machine.Machine`.
        device: kind of device that is predicted.
        precision: ``float32`` or ``bfloat16``, autocast with the weights as they are.
    """

    backbone: Backbone
    method: Method
    recipe: Training
    execution: Execution
    recompute_blocks: bool
    device: DeviceKind
    precision: Precision

    @property
    def key(self) -> str:
        """Equal for shapes whose steps take the same."""
        recipe = self.recipe
        batches = (recipe.batch_size, recipe.micro_batch_size)
        own = (self.backbone, self.method, self.execution, self.recompute_blocks, self.device, self.precision)
        return repr((*own, recipe.optimizer, recipe.clip_norm is None, *batches, self._of_kind()))

    @property
    def micro_batch(self) -> int:
        """Samples per forward pass."""
        recipe = self.recipe
        return min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)

    @property
    def distinct(self) -> int:
        """How many distinct labels a batch has at most."""
        return 1

    @property
    def like_blocks(self) -> int | None:
        """How many transformer blocks the model has; None where they are not all alike."""
        return None

    def with_blocks(self, count: int) -> StepShape:
        """Return the shape with another number of blocks, where they are all alike."""
        raise ValueError(f"the blocks of {self.backbone.name} are not all alike")

    def blank(self) -> StepShape:
        """Return the shape with a backbone that spends no time on what has no influence."""
        return self

    @abstractmethod
    def objective(self, model: nn.Module) -> Objective:
        """Return the objective around a model that is not adapted yet."""

    def adapt(self, adaptation: Adaptation) -> None:  # noqa: B027 - images leave adapters as they are
        """Set what the recipe asks of adapters."""

    @abstractmethod
    def batch(self, model: nn.Module) -> Batch:
        """Return the samples of one optimizer step, made where the surrounding mode makes them."""

    @abstractmethod
    def _of_kind(self) -> tuple[object, ...]:
        """Return what else decides, for :attr:`key`."""


@dataclass(frozen=True, kw_only=True)
class ImageStep(StepShape):
    """A step on images.

    Attributes:
        classes: number of classes.
    """

    backbone: ImageBackbone
    recipe: Recipe
    classes: int

    @property
    def distinct(self) -> int:
        """See :class:`StepShape`."""
        return self.classes

    def with_classes(self, classes: int) -> ImageStep:
        """Return the shape at another number of classes."""
        return replace(self, classes=classes)

    def blank(self) -> ImageStep:
        """See :class:`StepShape`."""
        return replace(self, backbone=with_blank_texts(self.backbone))

    def objective(self, model: nn.Module) -> Objective:
        """See :class:`StepShape`."""
        names = [str(number) for number in range(self.classes)]
        vocabulary = Vocabulary(classes=names, prompt="{class}", templates=["{class}"])
        return self.recipe.task.build(backbone=self.backbone, model=model, vocabulary=vocabulary, seed=0)

    def batch(self, model: nn.Module) -> Batch:
        """Return images and labels."""
        size = self.backbone.image_size(model)
        images = torch.randn(self.recipe.batch_size, 3, size, size)
        return images, torch.arange(self.recipe.batch_size) % self.classes

    def _of_kind(self) -> tuple[object, ...]:
        return self.classes, self.recipe.task


@dataclass(frozen=True, kw_only=True)
class TextStep(StepShape):
    """A step on texts of one length; as in nearly every batch, some of them are padded.

    Attributes:
        tokens: length of the batch.
    """

    backbone: LanguageBackbone
    recipe: TextRecipe
    tokens: int

    @property
    def like_blocks(self) -> int | None:
        """See :class:`StepShape`."""
        return self.backbone.like_blocks

    def with_blocks(self, count: int) -> TextStep:
        """See :class:`StepShape`."""
        return replace(self, backbone=self.backbone.with_blocks(count))

    def objective(self, model: nn.Module) -> Objective:
        """See :class:`StepShape`."""
        return self.recipe.task.build(backbone=self.backbone, model=model)

    def adapt(self, adaptation: Adaptation) -> None:
        """See :class:`StepShape`."""
        adaptation.drop_inputs(self.recipe.dropout)

    def batch(self, model: nn.Module) -> Batch:
        """Return tokens, mask and targets; one token of the first text of every micro-batch is padding."""
        ids = torch.zeros(self.recipe.batch_size, self.tokens, dtype=torch.int64)
        mask = torch.ones_like(ids)
        mask[:: self.micro_batch, 0] = 0
        return ids, mask, ids.clone()

    def _of_kind(self) -> tuple[object, ...]:
        return self.tokens, self.recipe.dropout


def with_blank_texts(backbone: ImageBackbone) -> ImageBackbone:
    """Return a backbone whose token matrices have the right shape and no content, which takes no time to make."""
    if not backbone.has_text:
        return backbone
    width = backbone.tokenize(["text"]).shape[1]
    blank = copy.copy(backbone)
    object.__setattr__(blank, "tokenize", lambda texts: torch.zeros(len(texts), width, dtype=torch.int64))
    return blank
