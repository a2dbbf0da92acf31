"""LoRA: a low-rank update (Hu et al. 2021); rank-stabilised LoRA is the same with another scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from randlora.adapter import Shared, Site, TwoFactorAdapter, TwoFactorMethod, check_rank
from randlora.bases import filled
from randlora.checks import check_choice, check_positive, check_whole
from randlora.scaling import SCALE_RULES, ScaleRule, scale_of


class LoRAAdapter(TwoFactorAdapter):
    """``update = scale * B A`` with ``B`` (out x r) and ``A`` (r x in), both trained."""

    def __init__(self, a: Tensor, b: Tensor, *, scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.scale = scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return ``scale * B`` and ``A``."""
        return self.b * self.scale, self.a


@dataclass(frozen=True, kw_only=True)
class LoRA(TwoFactorMethod):
    """Low-rank adaptation. Trains ``r (out + in)`` numbers per matrix; starts at zero because ``B`` does.

    Attributes:
        rank: *r*.
        alpha: numerator of the scale; the RandLoRA paper's vision runs use 1 over the rank (Table 8), its language runs
            alpha = 2r, a constant scale of 2 (Table 9).
        scale_rule: see :func:`randlora.scaling.scale_of`; ``over_sqrt_rank`` is rsLoRA (Kalajdzievski 2023).
    """

    rank: int
    alpha: float
    scale_rule: ScaleRule

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "rank")
        check_positive(self, "alpha")
        check_choice(self, "scale_rule", SCALE_RULES)

    def check_site(self, site: Site) -> None:
        """Raise ValueError where the rank exceeds the shorter side."""
        check_rank(self, site, self.rank)

    def update_rank(self, site: Site) -> int:
        """Return r."""
        return self.rank

    def n_trainable(self, site: Site) -> int:
        """Return r (out + in)."""
        return self.rank * (site.out_features + site.in_features)

    def shared(self, sites: Sequence[Site], seed: int) -> Shared | None:
        """Return None: nothing is shared."""
        return None

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> LoRAAdapter:
        """Return an adapter at its start."""
        a, b = lora_start(site, self.rank, generator)
        return LoRAAdapter(a, b, scale=scale_of(self.alpha, self.scale_rule, rank=self.rank))


def lora_start(site: Site, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ``A`` (r x in), Kaiming-uniform with a = sqrt 5, that is U(-1, 1) / sqrt(in), and ``B`` = 0 (out x r)."""
    bound = 1 / sqrt(site.in_features)
    a = filled(rank, site.in_features, value=0.0).uniform_(-bound, bound, generator=generator)
    return a, filled(site.out_features, rank, value=0.0)
