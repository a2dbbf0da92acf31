"""RandLoRA: a full-rank update from frozen random bases and trained diagonals (Albert et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from randlora.adapter import Shared, Site, Targets, TwoFactorMethod, check_rank
from randlora.bases import DISTRIBUTIONS, Distribution, filled, random_rows
from randlora.checks import check_choice, check_positive, check_whole, is_number
from randlora.methods.randlora_adapter import AveragedAdapter, RandLoRAAdapter, Stacking
from randlora.scaling import SCALE_RULES, ScaleRule, scale_of

BasisCount = Literal["floor", "ceil", "floor_plus_one", "half", "given"]
BASIS_COUNTS: tuple[BasisCount, ...] = ("floor", "ceil", "floor_plus_one", "half", "given")
Composition = Literal["sum_of_products", "product_of_sums"]
ZeroDiagonal = Literal["gamma", "lambda"]
MOST_BASES = 65_536


@dataclass(frozen=True, kw_only=True)
class RandLoRA(TwoFactorMethod):
    """Full-rank adaptation. Trains ``n (r + d)`` numbers per matrix, d the shorter side: a smaller rank trains more.

    Attributes:
        rank: *r*, the rank of one basis.
        basis_count: how many bases *n* a site has: ``floor`` of d / r (the paper's counts), ``ceil`` (peft; full rank
            where r does not divide d), ``floor_plus_one`` (the released vision code), ``half``, d / 2r rounded down
            (variant b of paper Table 2), or ``given`` by ``bases``.
        bases: *n* of every site where ``basis_count`` is ``given``, else None.
        composition: ``sum_of_products`` is RandLoRA; ``product_of_sums`` averages first,
            ``(sum_j B_j Lambda_j) (sum_j A_j Gamma_j)`` with distinct ``A_j``, and has rank r (variant a of Table 2).
        stacking: which column of the bases meets which row of the scaled stack: ``basis_major`` as in the equation,
            ``rank_major`` as in peft. The columns are independent draws, so the two differ in nothing but the numbers.
        zero_diagonal: the diagonal that starts at zero: ``gamma`` (vision; the others start at 1 / max(n, r), which
            is 1/n but for large ranks) or ``lambda`` (language; the others start at 1 / max(n, d)).
        alpha: numerator of the scale: 10 for vision (Table 8), 2 for language (Table 9).
        scale_rule: see :func:`randlora.scaling.scale_of`: ``over_rank`` for vision, ``over_sqrt_bases`` for language.
        distribution: of the bases, which have unit variance.
        sparsity: *s* of a ternary distribution (section 6.4).
    """

    rank: int
    basis_count: BasisCount
    bases: int | None
    composition: Composition
    stacking: Stacking
    zero_diagonal: ZeroDiagonal
    alpha: float
    scale_rule: ScaleRule
    distribution: Distribution
    sparsity: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "rank")
        check_positive(self, "alpha")
        check_choice(self, "basis_count", BASIS_COUNTS)
        check_choice(self, "composition", ("sum_of_products", "product_of_sums"))
        check_choice(self, "stacking", ("basis_major", "rank_major"))
        check_choice(self, "zero_diagonal", ("gamma", "lambda"))
        check_choice(self, "scale_rule", SCALE_RULES)
        check_choice(self, "distribution", DISTRIBUTIONS)
        if not is_number(self.sparsity) or self.sparsity < 2:
            raise ValueError(f"RandLoRA.sparsity = {self.sparsity!r}; valid: 2 (binary) or more")
        if (self.basis_count == "given") != (self.bases is not None):
            raise ValueError(
                f"RandLoRA.bases = {self.bases!r} with basis_count = {self.basis_count!r}; valid: a whole number with "
                "basis_count 'given', null with any other"
            )
        if self.bases is not None:
            check_whole(self, "bases")

    @property
    def size_field(self) -> str:
        """``bases`` where their number is given, else ``rank``."""
        return "rank" if self.bases is None else "bases"

    def largest_size(self, targets: Targets) -> int:
        """Return the largest rank that fits every site; of given bases, as many as span the largest, or 65,536."""
        if self.bases is None:
            return super().largest_size(targets)
        return min(MOST_BASES, max(site.long for site in targets.sites) * self.rank)

    def check_site(self, site: Site) -> None:
        """Raise ValueError, naming the site, where the rank exceeds its shorter side or leaves it without a basis."""
        check_rank(self, site, self.rank)
        if self.n_bases(site) < 1:
            raise ValueError(
                f"RandLoRA: rank {self.rank} leaves site '{site.name}' ({site.out_features} x {site.in_features}) "
                f"without a basis under basis_count 'half'; valid: 1 to {site.short // 2}"
            )

    def update_rank(self, site: Site) -> int:
        """Return n r, or the shorter side where that is less; r for a product of sums."""
        if self.composition == "product_of_sums":
            return self.rank
        return min(self.n_bases(site) * self.rank, site.short)

    @property
    def reaches_update_rank(self) -> bool:
        """Whether bases are continuous: of three values, columns can depend on each other, and sparse ones be zero."""
        return self.distribution != "ternary"

    def n_bases(self, site: Site) -> int:
        """Return *n*, the number of bases of a site."""
        floor, rest = divmod(site.short, self.rank)
        return {
            "floor": floor,
            "ceil": floor + int(rest > 0),
            "floor_plus_one": floor + 1,
            "half": site.short // (2 * self.rank),
            "given": self.bases or 0,
        }[self.basis_count]

    def n_trainable(self, site: Site) -> int:
        """Return n (r + d)."""
        return self.n_bases(site) * (self.rank + site.short)

    def shared(self, sites: Sequence[Site], seed: int) -> Shared:
        """Return ``long`` (max D x max n r), the stacked B_j, and ``short``, A (r x max d) or the A_j (n r x max d)."""
        columns = max(self.n_bases(site) for site in sites) * self.rank
        rows = columns if self.composition == "product_of_sums" else self.rank
        return Shared(
            long=self._rows(max(site.long for site in sites), columns, seed=seed, purpose="randlora long"),
            short=self._rows(rows, max(site.short for site in sites), seed=seed, purpose="randlora short"),
        )

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> RandLoRAAdapter | AveragedAdapter:
        """Return an adapter whose update is zero because one diagonal is."""
        assert shared is not None
        bases = self.n_bases(site)
        zero_gamma = self.zero_diagonal == "gamma"
        lambdas = filled(bases, self.rank, value=1 / max(bases, self.rank) if zero_gamma else 0.0)
        gammas = filled(bases, site.short, value=0.0 if zero_gamma else 1 / max(bases, site.short))
        scale = scale_of(self.alpha, self.scale_rule, rank=self.rank, bases=bases)
        if self.composition == "product_of_sums":
            return AveragedAdapter(lambdas, gammas, shared=shared, site=site, scale=scale)
        return RandLoRAAdapter(lambdas, gammas, shared=shared, site=site, scale=scale, stacking=self.stacking)

    def _rows(self, rows: int, columns: int, *, seed: int, purpose: str) -> Tensor:
        return random_rows(
            rows, columns, seed=seed, purpose=purpose, distribution=self.distribution, sparsity=self.sparsity
        )
