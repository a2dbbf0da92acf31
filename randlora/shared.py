"""Frozen tensors that a method keeps once per model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from randlora.rebuild import offer


class Shared(nn.Module):
    """Frozen matrices of a model; each is a non-persistent buffer, so none is ever saved.

    Adapters refer to the same object and read slices of it.
    """

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        self._lowered: dict[tuple[str, torch.dtype], Tensor] = {}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def slice(self, name: str, rows: int, columns: int) -> Tensor:
        """Return the first rows and columns of a matrix; of a compact one, a floating-point copy."""
        part = self.get_buffer(name)[:rows, :columns]
        if part.is_floating_point():
            return part
        step = self.get_buffer(f"{name}_step")
        return offer(part * step, lambda: part * step)

    def lowered(self, part: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return a slice in a lower precision from a copy made once per model, or None if it is no slice of a buffer.

        The copy is made from the whole buffer on first use and lives as long as the buffer stays where it is.
        """
        storage = part.untyped_storage()._cdata
        for name, buffer in self.named_buffers():
            if buffer.untyped_storage()._cdata == storage:
                copy = self._lowered.get((name, dtype))
                if copy is None:
                    copy = self._lowered[name, dtype] = buffer.to(dtype)
                return copy.as_strided(part.size(), part.stride(), part.storage_offset())
        return None

    def low_copies(self) -> tuple[Tensor, ...]:
        """Return the copies that :meth:`lowered` has made."""
        return tuple(self._lowered.values())

    def compact(self) -> None:
        """Store as int8 every matrix that holds -c, 0 and c alone; slices are expanded to these values at each use."""
        for name, matrix in list(self.named_buffers()):
            step = matrix.abs().max()
            signs = matrix.sign()
            if torch.equal(signs * step, matrix):
                setattr(self, name, signs.to(torch.int8))
                self.register_buffer(f"{name}_step", step, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._lowered.clear()  # copies of buffers that move or change their type
        return super()._apply(fn, recurse)
