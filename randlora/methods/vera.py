"""VeRA: vectors between two frozen random matrices (Kopiczko et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from randlora.adapter import Shared, Site, Targets, TwoFactorAdapter, TwoFactorMethod
from randlora.bases import DISTRIBUTIONS, Distribution, filled, random_rows
from randlora.checks import check_choice, check_positive, check_whole
from randlora.scaling import SCALE_RULES, ScaleRule, scale_of

BasisScale = Literal["unit", "kaiming"]
BASIS_SCALES: tuple[BasisScale, ...] = ("unit", "kaiming")


class VeRAAdapter(TwoFactorAdapter):
    """``update = scale * diag(b) B diag(d) A``, frozen ``B`` (out x r) and ``A`` (r x in) sliced from the model's."""

    keeps_factors: ClassVar[bool] = False

    def __init__(self, b: Tensor, d: Tensor, *, shared: Shared, in_features: int, scale: float) -> None:
        super().__init__()
        self.b = nn.Parameter(b)
        self.d = nn.Parameter(d)
        self.bases = shared
        self.in_features = in_features
        self.scale = scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return ``scale * diag(b) B diag(d)`` and ``A``."""
        rows, rank = len(self.b), len(self.d)
        left = self.b[:, None] * self.bases.slice("left", rows, rank) * (self.d * self.scale)
        return left, self.bases.slice("right", rank, self.in_features)


@dataclass(frozen=True, kw_only=True)
class VeRA(TwoFactorMethod):
    """Vector-based random matrix adaptation. Trains ``r + out`` numbers per matrix; starts at zero because ``b`` does.

    Attributes:
        rank: *r*.
        d_initial: start of every entry of ``d`` (0.1 in the VeRA paper and in the runs of the RandLoRA paper).
        alpha: numerator of the scale.
        scale_rule: see :func:`randlora.scaling.scale_of`; the vision runs use 1 / r (RandLoRA paper, Table 8); VeRA's
            own paper has no scale, that is a constant 1.
        basis_scale: standard deviation of the bases: ``unit`` 1 (RandLoRA's vision code), ``kaiming`` sqrt(2 / r) for B
            and sqrt(2 / in) for A (VeRA's paper and peft).
        distribution: of the frozen bases.
    """

    rank: int
    d_initial: float
    alpha: float
    scale_rule: ScaleRule
    basis_scale: BasisScale
    distribution: Distribution

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "rank")
        check_positive(self, "alpha", "d_initial")
        check_choice(self, "scale_rule", SCALE_RULES)
        check_choice(self, "basis_scale", BASIS_SCALES)
        check_choice(self, "distribution", DISTRIBUTIONS)

    def update_rank(self, site: Site) -> int:
        """Return r, or the shorter side where that is less."""
        return min(self.rank, site.short)

    def n_trainable(self, site: Site) -> int:
        """Return r + out."""
        return self.rank + site.out_features

    def largest_size(self, targets: Targets) -> int:
        """Return the longest short side among the sites: a larger rank adds numbers but no rank to any update."""
        return max(site.short for site in targets.sites)

    def shared(self, sites: Sequence[Site], seed: int) -> Shared:
        """Return ``left`` (max out x r) and ``right`` (r x max in)."""
        return Shared(
            left=self._rows(max(site.out_features for site in sites), self.rank, seed=seed, purpose="vera left"),
            right=self._rows(self.rank, max(site.in_features for site in sites), seed=seed, purpose="vera right"),
        )

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> VeRAAdapter:
        """Return an adapter with b = 0 and d = d_initial."""
        assert shared is not None
        # the deviations of both bases are part of the scale, so that one pair serves every site
        deviation = 2 / sqrt(self.rank * site.in_features) if self.basis_scale == "kaiming" else 1.0
        return VeRAAdapter(
            filled(site.out_features, value=0.0),
            filled(self.rank, value=self.d_initial),
            shared=shared,
            in_features=site.in_features,
            scale=scale_of(self.alpha, self.scale_rule, rank=self.rank) * deviation,
        )

    def _rows(self, rows: int, columns: int, *, seed: int, purpose: str) -> Tensor:
        return random_rows(rows, columns, seed=seed, purpose=purpose, distribution=self.distribution)
