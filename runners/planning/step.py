"""One training step of a run, on real tensors or on fake ones: what `runners.trainer` does with a batch, once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from runners.optimizers import Optimizers
from runners.planning.cuda_autocast import CudaAutocast

if TYPE_CHECKING:
    from torch import Tensor

    from runners.planning.shapes import StepShape


class RunStep:
    """A training step ready to be taken, the optimizer's state in place.

    Tensors are made where the surrounding mode makes them: on the CPU, or without memory in torch's fake mode.
    """

    def __init__(self, shape: StepShape, model: nn.Module) -> None:
        """Adapt a model whose weights are there, and build the objective around it as a run does."""
        self.shape = shape
        if shape.recompute_blocks:
            shape.backbone.recompute_blocks(model)
        self.objective = shape.objective(model)
        self.adaptation = shape.method.apply(model, shape.backbone.targets_of(model), seed=0, execution=shape.execution)
        shape.adapt(self.adaptation)
        self.objective.train()
        head = list(self.objective.head.parameters())
        self.trained = (*self.adaptation.trainable().values(), *head)
        self.optimizers = Optimizers(shape.recipe, backbone=self.adaptation.trainable(), head=head, total=2)
        if shape.device == "cuda":
            for group in (group for one in self.optimizers.all for group in one.param_groups):
                if "foreach" in group:
                    group["foreach"] = True  # what torch chooses on a CUDA device
        self.batch = shape.batch(model)
        self._fill_optimizers()

    def take(self, on_phase: Callable[[str], None], *, parts: Callable[[int], bool] = lambda number: True) -> None:
        """Take the step.

        Args:
            on_phase: told after each forward pass (``forward``), after each micro-batch (``part``), and after the
                backward pass (``backward``) that it is over.
            parts: whether a micro-batch, by its number, is taken.
        """
        recipe, whole = self.shape.recipe, self.objective.units(*self.batch)
        sides = [side.split(self.shape.micro_batch) for side in self.batch]
        total = torch.zeros((), device=self.batch[0].device)
        with self.adaptation.accumulating():
            for number, part in enumerate(zip(*sides, strict=True)):
                if not parts(number):
                    continue
                share = self.objective.units(*part) / whole
                with self._autocast():
                    loss = self.objective(*part, step=0)
                on_phase("forward")
                loss = loss.float() * share
                loss.backward()
                total += loss.detach()
                del loss
                on_phase("part")
        on_phase("backward")
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, recipe.clip_norm)
        self.optimizers.step()

    def part_sizes(self) -> list[int]:
        """Return the samples of each micro-batch."""
        size, micro = self.shape.recipe.batch_size, self.shape.micro_batch
        return [stop - start for start, stop in pairwise([*range(0, size, micro), size])]

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
        device = self.batch[0].device.type
        if self.shape.precision == "bfloat16":
            stack.enter_context(torch.autocast(device, torch.bfloat16))
            if self.shape.device == "cuda" and device == "cpu":
                stack.enter_context(CudaAutocast())
        return stack
