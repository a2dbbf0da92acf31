"""One training step of a run, on real tensors or on fake ones: what `runners.trainer` does with a batch, once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from randlora.tasks.base import Vocabulary
from runners.optimizers import Optimizers
from runners.planning.cuda_autocast import CudaAutocast

if TYPE_CHECKING:
    from torch import Tensor

    from randlora.adapter import Method
    from randlora.backbones.base import ImageBackbone
    from randlora.execution import Execution
    from randlora.recipe import Recipe

DeviceKind = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """What decides the memory and the operations of a training step; no weights, no images.

    Attributes:
        backbone: the model.
        method: the method at its size.
        recipe: task, optimizer, batch and micro-batch.
        classes: number of classes.
        execution: how adapters run.
        device: kind of device that is predicted.
        precision: ``float32`` or ``bfloat16``, autocast with float32 weights.
    """

    backbone: ImageBackbone
    method: Method
    recipe: Recipe
    classes: int
    execution: Execution
    device: DeviceKind
    precision: Precision

    @property
    def key(self) -> str:
        """Equal for shapes whose steps take the same."""
        recipe = self.recipe
        parts = (recipe.task, recipe.optimizer, recipe.clip_norm is None, recipe.batch_size, recipe.micro_batch_size)
        own = (self.backbone, self.method, self.classes, self.execution, self.device, self.precision)
        return repr((*own, *parts))

    @property
    def micro_batch(self) -> int:
        """Images per forward pass."""
        recipe = self.recipe
        return min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)

    def with_classes(self, classes: int) -> StepShape:
        """Return the shape at another number of classes."""
        return replace(self, classes=classes)


def with_blank_texts(backbone: ImageBackbone) -> ImageBackbone:
    """Return a backbone whose token matrices have the right shape and no content, which takes no time to make."""
    if not backbone.has_text:
        return backbone
    width = backbone.tokenize(["text"]).shape[1]
    blank = copy.copy(backbone)
    object.__setattr__(blank, "tokenize", lambda texts: torch.zeros(len(texts), width, dtype=torch.int64))
    return blank


class RunStep:
    """A training step ready to be taken, the optimizer's state in place.

    Tensors are made where the surrounding mode makes them: on the CPU, or without memory in torch's fake mode.
    """

    def __init__(self, shape: StepShape, model: nn.Module) -> None:
        """Adapt a model whose weights are there, and build the objective around it as a run does."""
        self.shape = shape
        names = [str(number) for number in range(shape.classes)]
        vocabulary = Vocabulary(classes=names, prompt="{class}", templates=["{class}"])
        backbone, recipe = shape.backbone, shape.recipe
        self.objective = recipe.task.build(backbone=backbone, model=model, vocabulary=vocabulary, seed=0)
        self.adaptation = shape.method.apply(model, backbone.targets_of(model), seed=0, execution=shape.execution)
        self.objective.train()
        head = list(self.objective.head.parameters())
        self.trained = (*self.adaptation.trainable().values(), *head)
        self.optimizers = Optimizers(recipe, backbone=self.adaptation.trainable(), head=head, total=2)
        if shape.device == "cuda":
            for group in (group for one in self.optimizers.all for group in one.param_groups):
                if "foreach" in group:
                    group["foreach"] = True  # what torch chooses on a CUDA device
        size = backbone.image_size(model)
        self.images = torch.randn(recipe.batch_size, 3, size, size)
        self.labels = torch.arange(recipe.batch_size) % shape.classes
        self._fill_optimizers()

    def take(self, on_phase: Callable[[str], None]) -> None:
        """Take the step, saying after each forward pass and after the backward pass that it is over."""
        recipe = self.shape.recipe
        size = recipe.micro_batch_size or recipe.batch_size
        total = torch.zeros((), device=self.images.device)
        with self.adaptation.accumulating():
            for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
                with self._autocast():
                    loss = self.objective(images, labels, step=0)
                on_phase("forward")
                loss = loss.float() * (len(labels) / recipe.batch_size)
                loss.backward()
                total += loss.detach()
                del loss
        on_phase("backward")
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, recipe.clip_norm)
        self.optimizers.step()

    def states(self) -> list[Tensor]:
        """Return the tensors of the optimizers' state."""
        values = [value for one in self.optimizers.all for state in one.state.values() for value in state.values()]
        return [value for value in values if isinstance(value, torch.Tensor)]

    def _fill_optimizers(self) -> None:
        """Let the optimizers make their state, which is there in every step of a run but the first."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizers.step()

    def _autocast(self) -> AbstractContextManager[object]:
        stack = ExitStack()
        if self.shape.precision == "bfloat16":
            stack.enter_context(torch.autocast(self.images.device.type, torch.bfloat16))
            if self.shape.device == "cuda" and self.images.device.type == "cpu":
                stack.enter_context(CudaAutocast())
        return stack
