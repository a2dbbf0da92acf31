"""The gradient of a step: parts weighted by what they hold, halves where memory runs out, the batch the same."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from configs import build
from torch import Tensor, nn

from randlora.tasks.base import Objective
from runners.gradients import Gradients


class Weighted(Objective):
    """The mean of w x over the samples whose flag is set; more samples at once than ``limit`` do not fit."""

    def __init__(self, limit: int = 99) -> None:
        super().__init__(build("backbone", "micro_clip"), nn.Linear(3, 1, bias=False))
        self.limit = limit
        self.sizes: list[int] = []
        self.drawn: list[float] = []
        nn.init.ones_(self.model.get_parameter("weight"))

    def forward(self, x: Tensor, flags: Tensor, **at: Any) -> Tensor:
        self.sizes.append(len(x))
        self.drawn.append(float(torch.rand(())))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")
        return (self.model(x)[:, 0] * flags).sum() / flags.sum().clamp(min=1)

    def units(self, *batch: Tensor) -> Tensor:
        return batch[1].sum()


BATCH = (torch.arange(21.0).reshape(7, 3), torch.tensor([1.0, 0, 1, 1, 0, 0, 1]))
EXPECTED = (BATCH[0] * BATCH[1][:, None]).sum(0) / 4


def gradients(objective: Weighted, *, size: int | None = None) -> Gradients:
    recipe = dataclasses.replace(build("recipe", "micro_clip"), micro_batch_size=size)
    parameters = dict(objective.model.named_parameters())
    accelerator = Accelerator(cpu=True)
    return Gradients(objective, objective, parameters, recipe=recipe, accelerator=accelerator, scope=nullcontext)


@pytest.mark.parametrize(("size", "sizes"), [(None, [7]), (3, [3, 3, 1]), (1, [1] * 7), (50, [7])])
def test_parts_are_weighted_by_what_they_hold(size: int | None, sizes: list[int]) -> None:
    objective = Weighted()
    loss = gradients(objective, size=size).of(BATCH, step=0, seed=1)
    assert objective.sizes == sizes
    assert torch.allclose(objective.model.get_parameter("weight").grad, EXPECTED)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(float(EXPECTED.sum()))


def test_what_does_not_fit_is_halved_and_said_so() -> None:
    objective = Weighted(limit=2)
    found = gradients(objective, size=6)
    loss = found.of(BATCH, step=4, seed=1)
    assert objective.sizes == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    assert torch.allclose(objective.model.get_parameter("weight").grad, EXPECTED)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(float(EXPECTED.sum()))
    assert [note.partition(";")[0] for note in found.notes] == [
        "out of memory at step 5: micro-batches of 3 instead of 6 samples from there on",
        "out of memory at step 5: micro-batches of 1 instead of 3 samples from there on",
    ]
    found.of(BATCH, step=5, seed=2)
    assert objective.sizes[9:] == [1] * 7
    assert len(found.notes) == 2


def test_a_step_taken_again_starts_from_nothing() -> None:
    """What earlier parts left in the gradients before memory ran out is gone, and so is what they drew."""
    objective = Weighted()
    full = objective.forward

    def sometimes(x: Tensor, flags: Tensor, **at: Any) -> Tensor:
        objective.limit = 2 if len(objective.sizes) == 1 else 99
        return full(x, flags, **at)

    objective.forward = sometimes  # type: ignore[method-assign]
    found = gradients(objective, size=4)
    found.of(BATCH, step=0, seed=1)
    assert objective.sizes == [4, 3, 2, 2, 2, 1]
    assert torch.allclose(objective.model.get_parameter("weight").grad, EXPECTED)  # type: ignore[arg-type]
    assert objective.drawn[0] == objective.drawn[2]


def test_a_sample_that_does_not_fit_alone_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="a single sample does not fit: CUDA out of memory"):
        gradients(Weighted(limit=0), size=2).of(BATCH, step=0, seed=1)
