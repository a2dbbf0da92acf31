"""RandLoRA: a full-rank update from frozen random bases and trained diagonals (Albert et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from randlora.adapter import Shared, Site, TwoFactorAdapter, TwoFactorMethod, check_rank
from randlora.bases import DISTRIBUTIONS, Distribution, filled, random_rows
from randlora.checks import check_choice, check_positive, check_whole, is_number
from randlora.scaling import SCALE_RULES, ScaleRule, scale_of

BasisCount = Literal["floor", "ceil", "floor_plus_one"]
BASIS_COUNTS: tuple[BasisCount, ...] = ("floor", "ceil", "floor_plus_one")
ZeroDiagonal = Literal["gamma", "lambda"]


class ScaledBasis(torch.autograd.Function):
    """The stack of ``Lambda_j A Gamma_j`` (n r x d), remembering only its three small inputs (paper appendix C.5.1)."""

    @staticmethod
    def forward(ctx: Any, basis: Tensor, lambdas: Tensor, gammas: Tensor) -> Tensor:
        """Return the stack from ``basis`` (r x d, frozen), ``lambdas`` (n x r) and ``gammas`` (n x d)."""
        ctx.save_for_backward(basis, lambdas, gammas)
        return (lambdas[:, :, None] * basis * gammas[:, None, :]).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        """Return gradients of the diagonals; the basis has none."""
        basis, lambdas, gammas = ctx.saved_tensors
        weighted = grad.to(gammas.dtype).unflatten(0, lambdas.shape) * basis
        grad_lambdas = (weighted @ gammas[:, :, None]).squeeze(2)
        grad_gammas = (lambdas[:, None, :] @ weighted).squeeze(1)
        return None, grad_lambdas, grad_gammas


class RandLoRAAdapter(TwoFactorAdapter):
    """``update = scale * sum_j B_j Lambda_j A Gamma_j`` (eq. 4), transposed where the input is the longer side."""

    def __init__(self, lambdas: Tensor, gammas: Tensor, *, shared: Shared, site: Site, scale: float) -> None:
        super().__init__()
        self.lambdas = nn.Parameter(lambdas)
        self.gammas = nn.Parameter(gammas)
        self.bases = shared
        self.long = site.long
        self.tall = site.out_features >= site.in_features
        self.scale = scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the bases and the scaled stack, in the order that fits the site."""
        bases, rank = self.lambdas.shape
        long = self.bases.get_buffer("long")[: self.long, : bases * rank]
        short = self.bases.get_buffer("short")[:, : self.gammas.shape[1]]
        stack = ScaledBasis.apply(short, self.lambdas * self.scale, self.gammas)
        return (long, stack) if self.tall else (stack.T, long.T)


@dataclass(frozen=True, kw_only=True)
class RandLoRA(TwoFactorMethod):
    """Full-rank adaptation. Trains ``n (r + d)`` numbers per matrix, d the shorter side: a smaller rank trains more.

    Attributes:
        rank: *r*, the rank of one basis.
        basis_count: how many bases *n* a site has: ``floor`` of d / r (the paper's counts), ``ceil`` (peft; full rank
            where r does not divide d) or ``floor_plus_one`` (the released vision code).
        zero_diagonal: the diagonal that starts at zero: ``gamma`` (vision; the others start at 1 / max(n, r), which
            is 1/n but for large ranks) or ``lambda`` (language; the others start at 1 / max(n, d)).
        alpha: numerator of the scale: 10 for vision (Table 8), 2 for language (Table 9).
        scale_rule: see :func:`randlora.scaling.scale_of`: ``over_rank`` for vision, ``over_sqrt_bases`` for language.
        distribution: of the bases, which have unit variance.
        sparsity: *s* of a ternary distribution (section 6.4).
    """

    rank: int
    basis_count: BasisCount
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
        check_choice(self, "zero_diagonal", ("gamma", "lambda"))
        check_choice(self, "scale_rule", SCALE_RULES)
        check_choice(self, "distribution", DISTRIBUTIONS)
        if not is_number(self.sparsity) or self.sparsity < 2:
            raise ValueError(f"RandLoRA.sparsity = {self.sparsity!r}; valid: 2 (binary) or more")

    def check_site(self, site: Site) -> None:
        """Raise ValueError where the rank exceeds the shorter side."""
        check_rank(self, site, self.rank)

    def n_bases(self, site: Site) -> int:
        """Return *n*, the number of bases of a site."""
        floor, rest = divmod(site.short, self.rank)
        extra = {"floor": 0, "ceil": int(rest > 0), "floor_plus_one": 1}[self.basis_count]
        return floor + extra

    def n_trainable(self, site: Site) -> int:
        """Return n (r + d)."""
        return self.n_bases(site) * (self.rank + site.short)

    def shared(self, sites: Sequence[Site], seed: int) -> Shared:
        """Return ``long`` (max D x max n r), the B_j side by side, and ``short``, the A (r x max d)."""
        columns = max(self.n_bases(site) for site in sites) * self.rank
        return Shared(
            long=self._rows(max(site.long for site in sites), columns, seed=seed, purpose="randlora long"),
            short=self._rows(self.rank, max(site.short for site in sites), seed=seed, purpose="randlora short"),
        )

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> RandLoRAAdapter:
        """Return an adapter whose update is zero because one diagonal is."""
        assert shared is not None
        bases = self.n_bases(site)
        zero_gamma = self.zero_diagonal == "gamma"
        lambdas = filled(bases, self.rank, value=1 / max(bases, self.rank) if zero_gamma else 0.0)
        gammas = filled(bases, site.short, value=0.0 if zero_gamma else 1 / max(bases, site.short))
        scale = scale_of(self.alpha, self.scale_rule, rank=self.rank, bases=bases)
        return RandLoRAAdapter(lambdas, gammas, shared=shared, site=site, scale=scale)

    def _rows(self, rows: int, columns: int, *, seed: int, purpose: str) -> Tensor:
        return random_rows(
            rows, columns, seed=seed, purpose=purpose, distribution=self.distribution, sparsity=self.sparsity
        )
