"""The runs of a benchmark of sweeps: methods times data sets times seeds, as command lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Runs that differ in method, data set and seed.

    Attributes:
        fixed: overrides of all of them, outside their identity too.
        methods: choices of conf/method.
        datasets: choices of conf/dataset.
        seeds: their seeds.
    """

    fixed: tuple[str, ...]
    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.methods) * len(self.datasets) * len(self.seeds)

    def jobs(self, *extra: str) -> list[list[str]]:
        """Return the overrides of each run."""
        product = itertools.product(self.datasets, self.methods, self.seeds)
        return [
            [*self.fixed, f"dataset={dataset}", f"method={method}", f"seed={seed}", *extra]
            for dataset, method, seed in product
        ]

    def multirun(self, *extra: str) -> list[str]:
        """Return the overrides with which one multirun carries out all of them."""
        axes = {"dataset": self.datasets, "method": self.methods, "seed": self.seeds}
        return [*self.fixed, *(f"{name}={_listed(values)}" for name, values in axes.items()), *extra]


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values))
