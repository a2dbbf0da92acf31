"""KRAdapter: the update is a Khatri-Rao product of two factors (Albert et al., ICCV 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from randlora.adapter import AdapterMethod, Shared, Site, UpdateAdapter
from randlora.bases import filled
from randlora.checks import check_choice, check_positive

RootOf = Literal["short", "long"]
Factor = Literal["zero", "random"]


class KhatriRaoAdapter(UpdateAdapter):
    """Row i along the shorter side is ``scale * vec(outer(b_i, a_i))``, cut to the longer side.

    ``zero`` (d x r1) and ``random`` (d x r2) hold the rows of the two factors, both trained, d the shorter side.
    """

    def __init__(self, zero: Tensor, random: Tensor, *, site: Site, fast: Factor, scale: float) -> None:
        super().__init__()
        self.zero = nn.Parameter(zero)
        self.random = nn.Parameter(random)
        self.long = site.long
        self.transposed = site.out_features > site.in_features
        self.fast = fast
        self.scale = scale

    def delta(self) -> Tensor:
        """Return the update; where the output is the longer side it is the transposed product."""
        slow, fast = (self.random, self.zero) if self.fast == "zero" else (self.zero, self.random)
        update = (slow[:, :, None] * (fast * self.scale)[:, None, :]).flatten(1)[:, : self.long]
        return update.T if self.transposed else update


@dataclass(frozen=True, kw_only=True)
class KRAdapter(AdapterMethod):
    """Khatri-Rao adaptation. Trains ``d (r1 + r2)`` numbers per matrix; starts at zero because one factor does.

    There is no rank to choose: with d the shorter and D the longer side, r1 is the root of one of them, rounded down,
    and r2 the smallest number with r1 r2 >= D. The update has full rank.

    Attributes:
        root_of: the side whose root is r1: ``short`` in the released layer, ``long`` in the matrix experiments.
        fast: the factor whose columns alternate fastest along the longer side: ``zero`` in the layer, ``random`` in the
            matrix experiments.
        kaiming_a: *a* of the Kaiming-uniform start of the random factor, U(-1, 1) sqrt(6 / (1 + a^2) / r2): 5 in the
            layer, sqrt 5 in the matrix experiments.
        scale: of the update: 2 in the layer, 1 in the matrix experiments.
    """

    root_of: RootOf
    fast: Factor
    kaiming_a: float
    scale: float

    def __post_init__(self) -> None:
        check_choice(self, "root_of", ("short", "long"))
        check_choice(self, "fast", ("zero", "random"))
        check_positive(self, "kaiming_a", "scale")

    def ranks(self, site: Site) -> tuple[int, int]:
        """Return r1, the width of the factor that starts at zero, and r2, that of the random one."""
        first = isqrt(site.short if self.root_of == "short" else site.long)
        return first, -(-site.long // first)

    def update_rank(self, site: Site) -> int:
        """Return the shorter side."""
        return site.short

    def n_trainable(self, site: Site) -> int:
        """Return d (r1 + r2)."""
        return site.short * sum(self.ranks(site))

    def shared(self, sites: Sequence[Site], seed: int) -> Shared | None:
        """Return None: nothing is shared."""
        return None

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> KhatriRaoAdapter:
        """Return an adapter with one factor at zero and the other Kaiming-uniform."""
        first, second = self.ranks(site)
        bound = sqrt(6 / (1 + self.kaiming_a**2) / second)
        random = filled(site.short, second, value=0.0).uniform_(-bound, bound, generator=generator)
        zero = filled(site.short, first, value=0.0)
        return KhatriRaoAdapter(zero, random, site=site, fast=self.fast, scale=self.scale)
