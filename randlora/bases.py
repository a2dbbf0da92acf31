"""Frozen random bases with unit variance, grown from a seed.

Each row has a stream of its own and is filled from the left. A larger matrix therefore extends a smaller one, so what a
layer sees depends on the seed alone: not on the other layers, the device, the default dtype or the global generator.

The published code draws Kaiming-uniform values and divides the whole stack by its empirical standard deviation (paper
section 4.2 and appendix C.5.1); here the standard deviation is the exact one of the distribution, which is what makes
the values independent of how many are drawn.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Literal

import torch
from torch._subclasses import FakeTensor

from randlora.seeds import generator_for

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Distribution = Literal["uniform", "normal", "ternary"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("uniform", "normal", "ternary")


def random_rows(
    rows: int,
    columns: int,
    *,
    seed: int,
    purpose: str,
    distribution: Distribution = "uniform",
    sparsity: float = 6.0,
    first: int = 0,
) -> Float[Tensor, "rows columns"]:
    """Return a float32 matrix of independent entries with mean 0 and variance 1.

    Args:
        rows: number of rows; row *i* is the same for every number of rows.
        columns: number of columns; the first *j* entries of a row are the same for every number of columns.
        seed: seed of the run.
        purpose: which basis this is, such as ``"left"``.
        distribution: ``uniform`` on (-sqrt 3, sqrt 3), ``normal``, or ``ternary``: -1 and +1 with probability 1/s
            each, else 0, divided by its standard deviation (paper section 6.4); s = 2 is the binary basis.
        sparsity: *s* of the ternary distribution, at least 2.
        first: index of the first row returned; part of a matrix can be drawn without the rows above it.

    Raises:
        ValueError: for a ternary basis with s below 2.
    """
    if distribution == "ternary" and sparsity < 2:
        raise ValueError(
            f"sparsity = {sparsity}: a ternary basis needs s of 2 or more (2 is binary, 6 leaves 1/3 non-zero)"
        )
    uniform = torch.empty(rows, columns, dtype=torch.float32, device="cpu")
    if isinstance(uniform, FakeTensor):
        return uniform  # where shapes alone are asked for there is nothing to draw
    for row in range(rows):
        uniform[row].uniform_(generator=generator_for(seed, "basis", purpose, first + row))
    if distribution == "uniform":
        return uniform.mul_(2).sub_(1).mul_(sqrt(3))
    if distribution == "normal":
        halves = uniform.clamp_(2**-25, 1 - 2**-24).double()
        return torch.special.ndtri(halves).float()
    plus = (uniform < 1 / sparsity).float()
    minus = (uniform >= 1 - 1 / sparsity).float()
    return (plus - minus).mul_(sqrt(sparsity / 2))


def filled(*shape: int, value: float) -> Tensor:
    """Return a constant float32 tensor on the CPU, whatever the default dtype and device are."""
    return torch.full(shape, value, dtype=torch.float32, device="cpu")
