"""NoLA: both factors are combinations of frozen random matrices (Koohpayegani et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from randlora.adapter import Shared, Site, Targets, TwoFactorAdapter, TwoFactorMethod, check_rank
from randlora.bases import DISTRIBUTIONS, Distribution, filled, random_rows
from randlora.checks import check_choice, check_positive, check_whole
from randlora.scaling import SCALE_RULES, ScaleRule, scale_of

Start = Literal["mean", "zero"]
MOST_BASES = 65_536


class NoLAAdapter(TwoFactorAdapter):
    """``update = scale * (sum_j beta_j B_j) (sum_i alpha_i A_i)``, ``B_j`` (out x r) and ``A_i`` (r x in) frozen."""

    def __init__(self, left: Tensor, right: Tensor, *, shared: Shared, site: Site, rank: int, scale: float) -> None:
        super().__init__()
        self.left = nn.Parameter(left)
        self.right = nn.Parameter(right)
        self.bases = shared
        self.out_features = site.out_features
        self.in_features = site.in_features
        self.rank = rank
        self.scale = scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two combinations; the bases of a row lie together, so each is one matrix-vector product."""
        left = self._combine(self.bases.get_buffer("left")[: self.out_features], self.left * self.scale)
        return left, self._combine(self.bases.get_buffer("right")[: self.in_features], self.right).T

    def _combine(self, rows: Tensor, coefficients: Tensor) -> Tensor:
        stack = rows.view(len(rows) * self.rank, len(coefficients))
        return (stack @ coefficients).view(len(rows), self.rank)


@dataclass(frozen=True, kw_only=True)
class NoLA(TwoFactorMethod):
    """Networks as linear combinations of low-rank random bases. Trains ``2 k`` numbers per matrix, whatever its shape.

    Attributes:
        rank: *r*, the rank of every basis and of the update.
        bases: *k*, how many bases each factor combines; this is what a parameter budget sets.
        start: ``mean`` sets every coefficient to 1/k, so the update starts small but not at zero (NoLA's vision code
            and the RandLoRA paper's runs); ``zero`` sets the coefficients of the left factor to 0, so it starts at
            exactly zero.
        alpha: numerator of the scale.
        scale_rule: see :func:`randlora.scaling.scale_of`.
        distribution: of the frozen bases, which have unit variance and are stored once per model.
    """

    size_field: ClassVar[str | None] = "bases"
    rank: int
    bases: int
    start: Start
    alpha: float
    scale_rule: ScaleRule
    distribution: Distribution

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "rank", "bases")
        check_positive(self, "alpha")
        check_choice(self, "start", ("mean", "zero"))
        check_choice(self, "scale_rule", SCALE_RULES)
        check_choice(self, "distribution", DISTRIBUTIONS)

    def check_site(self, site: Site) -> None:
        """Raise ValueError where the rank exceeds the shorter side."""
        check_rank(self, site, self.rank)

    @property
    def starts_at_base(self) -> bool:
        """Whether the start is zero."""
        return self.start == "zero"

    def update_rank(self, site: Site) -> int:
        """Return r."""
        return self.rank

    def n_trainable(self, site: Site) -> int:
        """Return 2 k."""
        return 2 * self.bases

    def largest_size(self, targets: Targets) -> int:
        """Return the number of bases at which both factors of the largest site are spanned, 65,536 at most."""
        return min(MOST_BASES, max(site.long for site in targets.sites) * self.rank)

    def shared(self, sites: Sequence[Site], seed: int) -> Shared:
        """Return ``left`` (max out x r k) and ``right`` (max in x r k)."""
        columns = self.rank * self.bases
        sides = {
            "left": max(site.out_features for site in sites),
            "right": max(site.in_features for site in sites),
        }
        return Shared(
            **{
                side: random_rows(rows, columns, seed=seed, purpose=f"nola {side}", distribution=self.distribution)
                for side, rows in sides.items()
            }
        )

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> NoLAAdapter:
        """Return an adapter at its start."""
        assert shared is not None
        return NoLAAdapter(
            filled(self.bases, value=1 / self.bases if self.start == "mean" else 0.0),
            filled(self.bases, value=1 / self.bases),
            shared=shared,
            site=site,
            rank=self.rank,
            scale=scale_of(self.alpha, self.scale_rule, rank=self.rank),
        )
