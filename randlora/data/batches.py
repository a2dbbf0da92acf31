"""Which samples form which batch: a pure function of seed and step, with no state to resume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from randlora.seeds import generator_for, seed_for

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The batches of a whole training run.

    An epoch shorter than ``min_steps_per_epoch`` batches (n / batch_size of them, not rounded) is drawn from the index
    list repeated ``int(min_steps_per_epoch / batches) + 1`` times, as in the paper's released code (section 4). The
    last batch of an epoch holds what is left over.

    Attributes:
        n: number of training samples.
        batch_size: samples per optimiser step.
        epochs: passes over the (repeated) index list.
        min_steps_per_epoch: oversampling threshold; 0 switches it off.
        seed: seed of the run.
        replacement: draw with replacement (the paper) instead of shuffling.
    """

    n: int
    batch_size: int
    epochs: int
    min_steps_per_epoch: int
    seed: int
    replacement: bool

    def __post_init__(self) -> None:
        for field, least in (("n", 1), ("batch_size", 1), ("epochs", 1), ("min_steps_per_epoch", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"batch plan: {field} is {getattr(self, field)}; it starts at {least}")

    @property
    def repeats(self) -> int:
        """How often an epoch's index list repeats the samples."""
        if self.n >= self.min_steps_per_epoch * self.batch_size:
            return 1
        return self.min_steps_per_epoch * self.batch_size // self.n + 1

    @property
    def samples_per_epoch(self) -> int:
        """Draws of one epoch."""
        return self.n * self.repeats

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch, the incomplete last one included."""
        return -(-self.samples_per_epoch // self.batch_size)

    @property
    def total_steps(self) -> int:
        """Batches of the whole run."""
        return self.epochs * self.steps_per_epoch

    def indices(self, step: int) -> Int64[Tensor, " b"]:
        """Return the positions, below ``n``, of the samples in batch ``step`` (from 0).

        Raises:
            IndexError: for a step outside the run.
        """
        epoch, first, last = self._span(step)
        order = _remembered_order(self.samples_per_epoch, epoch, self.seed, replacement=self.replacement)
        return order[first:last] % self.n

    def augment_seeds(self, step: int) -> tuple[int, ...]:
        """Return one seed for each sample of batch ``step``, for :func:`randlora.data.augment.augment`.

        A seed belongs to the draw (its epoch and its place in the epoch's order), so a sample drawn twice is altered
        differently, and nothing changes when a batch is processed in parts.
        """
        epoch, first, last = self._span(step)
        return tuple(seed_for(self.seed, "augment", epoch, place) for place in range(first, last))

    def _span(self, step: int) -> tuple[int, int, int]:
        if not 0 <= step < self.total_steps:
            raise IndexError(f"batch plan: there is no step {step}; this run has steps 0 to {self.total_steps - 1}")
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = batch * self.batch_size
        return epoch, first, min(first + self.batch_size, self.samples_per_epoch)


def epoch_order(n: int, epoch: int, seed: int, *, replacement: bool = False) -> Int64[Tensor, " n"]:
    """Return the order of ``n`` samples in an epoch: a permutation, or ``n`` independent draws."""
    generator = generator_for(seed, "order", epoch)
    if replacement:
        return torch.randint(n, (n,), generator=generator)
    return torch.randperm(n, generator=generator)


@lru_cache(maxsize=2)
def _remembered_order(n: int, epoch: int, seed: int, *, replacement: bool) -> Int64[Tensor, " n"]:
    """Return the order of an epoch, drawn once for all its steps; read it, never write into it."""
    return epoch_order(n, epoch, seed, replacement=replacement)
