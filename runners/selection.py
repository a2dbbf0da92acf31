"""Which step's tensors a run ends with: those with the lowest validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from runners.checkpoint import Checkpointer
from runners.processes import ALONE, Processes


class Selection:
    """Measures the validation loss every so many steps and after the last one, and keeps the best tensors in a file.

    Args:
        path: the file.
        run: identity of the run.
        every: steps between looks.
        measure: returns the validation loss of the model as it is, and leaves it ready to train on.
        log: told the step and the loss of each look.

    Attributes:
        best: the lowest loss so far, infinite before the first look.
        step: after how many steps it was found; 0 before the first look.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: str,
        every: int,
        measure: Callable[[], float],
        log: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        self.every = every
        self.measure = measure
        self.log = log
        self.best = math.inf
        self.step = 0
        self._file = Checkpointer(path, run=run, every_s=math.inf, every_steps=None)

    def look(
        self, step: int, total: int, parameters: Mapping[str, nn.Parameter], *, processes: Processes = ALONE
    ) -> None:
        """Measure where a look is due after ``step`` of ``total`` steps, and keep the tensors if none were better.

        Of several processes each measures, and what the main one finds counts.
        """
        if step % self.every and step != total:
            return
        loss = processes.value_of_main(self.measure())
        self.log(step, {"validation_loss": loss})
        if loss < self.best:
            self.best, self.step = loss, step
            if processes.main:
                self._file.save(step, parameters, extra={})

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> str:
        """Give the parameters the values of the best step, and return a sentence that says which it was.

        Raises:
            RuntimeError: if there is none: no look found a finite loss, or the file is gone.
        """
        if self._file.restore(parameters) is None:
            raise RuntimeError(
                f"no tensors of the best step in {self._file.path}: the validation loss was never finite, or the file "
                "was removed; run it again with recipe.select=last, or a lower learning rate"
            )
        return f"tensors of step {self.step}, with the lowest validation loss: {self.best:.4f}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"best": self.best, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore from a checkpoint.

        The file of the best tensors may be newer than the checkpoint. The steps between are taken again and give the
        same tensors, so it is then written again.
        """
        self.best, self.step = state["best"], state["step"]

    def clear(self) -> None:
        """Remove the file."""
        self._file.clear()
