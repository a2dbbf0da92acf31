"""The gradient of one optimizer step, from micro-batches and on one process or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from randlora.data.feed import Batch
from randlora.seeds import seed_for
from randlora.tasks.base import Objective
from randlora.training import Training
from runners.processes import ALONE, Processes

if TYPE_CHECKING:
    from accelerate import Accelerator


class Gradients:
    """Takes the gradient of the mean loss of a batch, part by part.

    A part that does not fit the accelerator's memory is taken in halves, from that step on; the batch stays the same.

    Args:
        objective: gives the loss of a part, and over how many things it is a mean.
        prepared: the same, as the accelerator runs it.
        parameters: what is trained, by name.
        recipe: says how large parts are.
        accelerator: precision and placement.
        scope: surrounds the passes of each step.
        processes: among which the samples of each batch are shared out. Gradients are added up once per step, when
            `scope`, which may hold them back, is over.

    Attributes:
        notes: what was changed to make a step fit, in words.
    """

    def __init__(
        self,
        objective: Objective,
        prepared: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        *,
        recipe: Training,
        accelerator: Accelerator,
        scope: Callable[[], AbstractContextManager[None]],
        processes: Processes = ALONE,
    ) -> None:
        self.objective = objective
        self.prepared = prepared
        self.parameters = parameters
        self.accelerator = accelerator
        self.processes = processes
        self.scope = scope
        self.size = recipe.micro_batch_size
        self.notes: tuple[str, ...] = ()

    def of(self, batch: Batch, *, step: int, seed: int) -> Tensor:
        """Leave the gradient in the parameters and return the loss, a tensor of one number.

        Args:
            batch: all samples of the step; every process is given the same.
            step: number of the step, from 0.
            seed: of everything random in it.

        Raises:
            torch.OutOfMemoryError: if the memory does not suffice for a single sample, or with several processes.
        """
        rank = self.processes.rank
        while True:
            # other samples than those of the main process are not to meet the same dropout
            torch.manual_seed(seed if rank == 0 else seed_for(seed, "process", rank))
            try:
                with self.scope():
                    total = self._add_up(batch, step=step)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                # not from in here, where the exception keeps the tensors of the step alive
                reason = str(error).partition("\n")[0]
            self._halve(batch, step=step, reason=reason)
        self.processes.sum_gradients(list(self.parameters.values()))
        return self.processes.sum(total)

    def _add_up(self, batch: Batch, *, step: int) -> Tensor:
        whole = self.objective.units(*batch)
        total = torch.zeros((), device=self.accelerator.device)
        for part, counts in self._parts(batch):
            share = self.objective.units(*part) / whole if counts else 0.0
            loss = self.prepared(*part, step=step) * share
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _parts(self, batch: Batch) -> list[tuple[Batch, bool]]:
        """Return the parts of this process, and whether each counts.

        All processes take as many passes as the main one, which has the most samples: where the weights are shared out
        they are gathered together in each. A process without a sample for a pass takes one that counts nothing.
        """
        count = self.processes.count
        size = self.size or -(-len(batch[0]) // count)
        own = (side[self.processes.rank :: count].split(size) for side in batch)
        parts = [(part, True) for part in zip(*own, strict=True) if len(part[0])]
        passes = -(-len(batch[0][::count]) // size)
        return parts + [(tuple(side[:1] for side in batch), False)] * (passes - len(parts))

    def _halve(self, batch: Batch, *, step: int, reason: str) -> None:
        size = min(self.size or len(batch[0]), len(batch[0]))
        if size == 1 or not self.processes.alone:
            raise torch.OutOfMemoryError(
                f"{reason}; set a smaller recipe.micro_batch_size"
                if size > 1
                else f"a single sample does not fit: {reason}"
            )
        self.size = size // 2
        for parameter in self.parameters.values():
            parameter.grad = None
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        self.notes += (
            f"out of memory at step {step + 1}: micro-batches of {self.size} instead of {size} samples from there on; "
            "the batch is the same",
        )
