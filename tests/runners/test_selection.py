"""Keeping the step with the lowest validation loss, also over an interruption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from runners.selection import Selection

ID = "0123456789abcdef"


class Course:
    """A parameter that equals the step, and a validation loss for each look."""

    def __init__(self, path: Path, losses: list[float], *, every: int = 2) -> None:
        self.parameters = {"w": nn.Parameter(torch.zeros(3))}
        self.logged: list[tuple[int, float]] = []
        self.losses = iter(losses)
        self.selection = Selection(
            path / "best.pt", run=ID, every=every, measure=lambda: next(self.losses), log=self._log
        )

    def take(self, first: int, last: int, total: int) -> None:
        for step in range(first, last + 1):
            with torch.no_grad():
                self.parameters["w"].fill_(step)
            self.selection.look(step, total, self.parameters)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, values["validation_loss"]))


def test_the_best_of_the_looks_is_restored(tmp_path: Path) -> None:
    course = Course(tmp_path, [3.0, 1.0, 2.0, 1.5])
    course.take(1, 7, total=7)
    assert course.logged == [(2, 3.0), (4, 1.0), (6, 2.0), (7, 1.5)]
    assert course.selection.restore(course.parameters) == "tensors of step 4, with the lowest validation loss: 1.0000"
    assert course.parameters["w"].tolist() == [4, 4, 4]


def test_of_equal_losses_the_first_counts(tmp_path: Path) -> None:
    course = Course(tmp_path, [1.0, 1.0])
    course.take(1, 4, total=4)
    assert "step 2" in course.selection.restore(course.parameters)


def test_an_interruption_changes_nothing(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 1.0, 2.5]
    whole = Course(tmp_path / "whole", losses)
    whole.take(1, 8, total=8)
    first = Course(tmp_path / "parts", losses)
    first.take(1, 4, total=8)
    state = first.selection.state_dict()
    first.take(5, 6, total=8)  # steps that no checkpoint knows of; their tensors are in the file already
    second = Course(tmp_path / "parts", losses[2:])
    second.selection.load_state_dict(state)
    second.take(5, 8, total=8)
    assert second.selection.restore(second.parameters) == whole.selection.restore(whole.parameters)
    assert torch.equal(second.parameters["w"], whole.parameters["w"])
    assert second.parameters["w"].tolist() == [6, 6, 6]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_without_a_finite_loss_there_is_nothing_to_keep(tmp_path: Path, loss: float) -> None:
    course = Course(tmp_path, [loss])
    course.take(1, 2, total=2)
    with pytest.raises(RuntimeError, match=r"never finite.*recipe.select=last"):
        course.selection.restore(course.parameters)


def test_tensors_of_another_run_are_not_taken(tmp_path: Path) -> None:
    course = Course(tmp_path, [1.0])
    course.take(1, 2, total=2)
    other = Selection(tmp_path / "best.pt", run="f" * 16, every=2, measure=lambda: 1.0, log=lambda step, values: None)
    with pytest.raises(RuntimeError, match="no tensors of the best step"):
        other.restore(course.parameters)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    course = Course(tmp_path, [1.0])
    course.take(1, 2, total=2)
    course.selection.clear()
    assert not list(tmp_path.iterdir())
