"""Mid-run checkpoints: trained tensors, optimizer and step, written atomically."""

from __future__ import annotations

import glob
import io
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from randlora.storage import write_atomically


class Checkpointer:
    """Keeps the latest state of one run in one file.

    Args:
        path: the file.
        run: identity of the run; a checkpoint of another run is ignored.
        every_s: seconds between checkpoints.
        every_steps: steps between checkpoints, or None to go by time alone.
        writes: whether this process writes the file; of several processes of a run one does.
    """

    def __init__(self, path: Path, *, run: str, every_s: float, every_steps: int | None, writes: bool = True) -> None:
        self.path = path
        self.run = run
        self.every_s = every_s
        self.every_steps = every_steps
        self.writes = writes
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Return whether to save after ``step`` completed steps."""
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        return time.monotonic() - self._last >= self.every_s

    def save(self, step: int, parameters: Mapping[str, nn.Parameter], *, extra: Mapping[str, Any]) -> None:
        """Write the state after ``step`` completed steps."""
        if self.writes:
            buffer = io.BytesIO()
            tensors = {name: parameter.detach().cpu() for name, parameter in parameters.items()}
            torch.save({"run": self.run, "step": step, "tensors": tensors, **extra}, buffer)
            write_atomically(self.path, buffer.getvalue())
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the saved state of this run, or None if there is none that can be used."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError):
            return None
        return state if isinstance(state, dict) and state.get("run") == self.run else None

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Any] | None:
        """Copy a saved state into the parameters and return the rest of it; None if there is none."""
        state = self.load()
        if state is None or set(state["tensors"]) != set(parameters):
            return None
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["tensors"][name])
        return state

    def clear(self) -> None:
        """Remove the file, and parts of it that killed processes left."""
        self.path.unlink(missing_ok=True)
        for part in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.part"):
            part.unlink(missing_ok=True)
