"""NoLA: both factors are combinations of frozen random matrices (Koohpayegani et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from randlora.adapter import Shared, Site, Targets, TwoFactorAdapter, TwoFactorMethod, check_rank
from randlora.bases import DISTRIBUTIONS, Distribution, filled, random_rows
from randlora.checks import check_choice, check_flag, check_positive, check_whole
from randlora.scaling import SCALE_RULES, ScaleRule, scale_of

Start = Literal["mean", "zero", "frozen_a"]
STARTS: tuple[Start, ...] = ("mean", "zero", "frozen_a")
BasisScale = Literal["unit", "kaiming", "over_sqrt_bases"]
BASIS_SCALES: tuple[BasisScale, ...] = ("unit", "kaiming", "over_sqrt_bases")
MOST_BASES = 65_536
CHUNK = 1 << 22  # numbers of a basis in memory at once where it is drawn anew (16 MiB), 16 rows at least


class NoLABases(Shared):
    """The stacks ``left`` (max out x r k) and ``right`` (max in x r k), kept as buffers or drawn for each use.

    The bases of one row lie together, so that a combination is one matrix-vector product. ``frozen_a`` (r x max in) is
    the constant part of the right factor, where the method has one.
    """

    def __init__(self, *, seed: int, columns: int, distribution: Distribution, **tensors: Tensor) -> None:
        super().__init__(**tensors)
        self.seed = seed
        self.columns = columns
        self.distribution = distribution

    def rows(self, side: str, first: int, last: int, *, like: Tensor) -> Tensor:
        """Return rows ``first`` to ``last`` (not included) of a stack, in the dtype and on the device of ``like``."""
        kept = self._buffers.get(side)
        if kept is not None:
            part, step = kept[first:last].to(like.dtype), self._buffers.get(f"{side}_step")
            return part if step is None else part * step
        return _drawn(side, last - first, self.columns, self.seed, self.distribution, first).to(like)


class Combination(torch.autograd.Function):
    """``sum_j c_j basis_j`` as rows x r. Remembers no basis: where none is kept, the backward pass draws them again.

    Rows are taken in the same chunks whether the bases are kept or drawn, so that both give the same bits.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, bases: NoLABases, side: str, rows: int) -> Tensor:
        """Return the combination from ``coefficients`` (k) and the first ``rows`` rows of a stack."""
        ctx.save_for_backward(coefficients)
        ctx.bases, ctx.side, ctx.rows = bases, side, rows
        parts = []
        # in the dtype of the coefficients: under autocast the cast of a whole stack would cost more than the product
        with torch.autocast(coefficients.device.type, enabled=False):
            for first, last in _chunks(rows, bases.columns):
                stack = bases.rows(side, first, last, like=coefficients).view(-1, len(coefficients))
                parts.append((stack @ coefficients).view(last - first, -1))
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the coefficients."""
        (coefficients,) = ctx.saved_tensors
        total = torch.zeros_like(coefficients)
        with torch.autocast(coefficients.device.type, enabled=False):
            for first, last in _chunks(ctx.rows, ctx.bases.columns):
                stack = ctx.bases.rows(ctx.side, first, last, like=coefficients).view(-1, len(coefficients))
                total += stack.T @ grad[first:last].flatten().to(coefficients.dtype)
        return total, None, None, None


class NoLAAdapter(TwoFactorAdapter):
    """``update = scale * (sum_j beta_j B_j) (A_0 + sum_i alpha_i A_i)``, ``B_j`` (out x r), ``A_i`` (r x in) frozen."""

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        *,
        shared: NoLABases,
        site: Site,
        scales: tuple[float, float],
        frozen_a: bool,
    ) -> None:
        super().__init__()
        self.left = nn.Parameter(left)
        self.right = nn.Parameter(right)
        self.bases = shared
        self.out_features = site.out_features
        self.in_features = site.in_features
        self.scales = scales
        self.frozen_a = frozen_a

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two combinations; their scales hold the standard deviation of the bases."""
        left_scale, right_scale = self.scales
        left = Combination.apply(self.left * left_scale, self.bases, "left", self.out_features)
        right = Combination.apply(self.right * right_scale, self.bases, "right", self.in_features).T
        if self.frozen_a:
            frozen_a = self.bases.slice("frozen_a", right.shape[0], self.in_features)
            right = right + frozen_a / sqrt(3 * self.in_features)
        return left, right


@dataclass(frozen=True, kw_only=True)
class NoLA(TwoFactorMethod):
    """Networks as linear combinations of low-rank random bases. Trains ``2 k`` numbers per matrix, whatever its shape.

    The published implementations differ in their start and in the size of the bases; ``conf/method/nola*.yaml`` has one
    file for each.

    Attributes:
        rank: *r*, the rank of every basis and of the update.
        bases: *k*, how many bases each factor combines; this is what a parameter budget sets.
        start: ``mean`` sets every coefficient to 1/k, so the update starts small but not at zero (NoLA's vision code
            and the RandLoRA paper's runs). ``zero`` sets those of the left factor to 0. ``frozen_a`` (NoLA's language
            code) sets all to 0 and adds a frozen Kaiming-uniform A_0 to the right factor, so that the left factor has
            a gradient at once and the right factor from the second step on.
        basis_scale: standard deviation of the bases: ``unit`` 1 (RandLoRA's vision code), ``kaiming`` that of
            U(-1, 1) / sqrt(n r) with n the side they span (NoLA's vision code), ``over_sqrt_bases`` that of
            U(-1, 1) / sqrt(k) (NoLA's language code).
        keep_bases: keep the bases once per model, or draw them again in chunks for every use. Results are the same
            bit for bit; drawing costs time in each step and saves ``k r (max out + max in)`` numbers.
        alpha: numerator of the scale.
        scale_rule: see :func:`randlora.scaling.scale_of`.
        distribution: of the frozen bases, which all sites share.
    """

    rank: int
    bases: int
    start: Start
    basis_scale: BasisScale
    keep_bases: bool
    alpha: float
    scale_rule: ScaleRule
    distribution: Distribution

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "rank", "bases")
        check_positive(self, "alpha")
        check_flag(self, "keep_bases")
        check_choice(self, "start", STARTS)
        check_choice(self, "basis_scale", BASIS_SCALES)
        check_choice(self, "scale_rule", SCALE_RULES)
        check_choice(self, "distribution", DISTRIBUTIONS)

    def check_site(self, site: Site) -> None:
        """Raise ValueError where the rank exceeds the shorter side."""
        check_rank(self, site, self.rank)

    @property
    def size_field(self) -> str:
        """``bases``: the rank changes no count."""
        return "bases"

    @property
    def starts_at_base(self) -> bool:
        """Whether the start is zero."""
        return self.start != "mean"

    def update_rank(self, site: Site) -> int:
        """Return r."""
        return self.rank

    def n_trainable(self, site: Site) -> int:
        """Return 2 k."""
        return 2 * self.bases

    def largest_size(self, targets: Targets) -> int:
        """Return the number of bases at which both factors of the largest site are spanned, 65,536 at most."""
        return min(MOST_BASES, max(site.long for site in targets.sites) * self.rank)

    def shared(self, sites: Sequence[Site], seed: int) -> NoLABases:
        """Return the bases, and A_0 where there is one."""
        columns = self.rank * self.bases
        out = max(site.out_features for site in sites)
        in_ = max(site.in_features for site in sites)
        tensors = {}
        if self.keep_bases:
            tensors = {
                side: draw(side, rows, columns, seed=seed, distribution=self.distribution)
                for side, rows in {"left": out, "right": in_}.items()
            }
        if self.start == "frozen_a":
            tensors["frozen_a"] = draw("frozen a", self.rank, in_, seed=seed, distribution="uniform")
        return NoLABases(seed=seed, columns=columns, distribution=self.distribution, **tensors)

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> NoLAAdapter:
        """Return an adapter at its start."""
        assert isinstance(shared, NoLABases)
        mean = 1 / self.bases
        left, right = {"mean": (mean, mean), "zero": (0.0, mean), "frozen_a": (0.0, 0.0)}[self.start]
        scale = scale_of(self.alpha, self.scale_rule, rank=self.rank, bases=self.bases)
        scales = (scale * self._deviation(site.out_features), self._deviation(site.in_features))
        return NoLAAdapter(
            filled(self.bases, value=left),
            filled(self.bases, value=right),
            shared=shared,
            site=site,
            scales=scales,
            frozen_a=self.start == "frozen_a",
        )

    def _deviation(self, side: int) -> float:
        bounds: dict[BasisScale, float] = {
            "unit": 3,
            "kaiming": 1 / (side * self.rank),
            "over_sqrt_bases": 1 / self.bases,
        }
        return sqrt(bounds[self.basis_scale] / 3)


def draw(part: str, rows: int, columns: int, *, seed: int, distribution: Distribution, first: int = 0) -> Tensor:
    """Return rows of one part of the frozen tensors, with unit variance."""
    return random_rows(rows, columns, seed=seed, purpose=f"nola {part}", distribution=distribution, first=first)


# one operation to a compiler: generators are no part of a graph
@torch.library.custom_op("randlora::nola_rows", mutates_args=())
def _drawn(part: str, rows: int, columns: int, seed: int, distribution: str, first: int) -> Tensor:
    assert distribution in DISTRIBUTIONS
    return draw(part, rows, columns, seed=seed, distribution=distribution, first=first)


@_drawn.register_fake
def _(part: str, rows: int, columns: int, seed: int, distribution: str, first: int) -> Tensor:
    return torch.empty(rows, columns, device="cpu", dtype=torch.float32)


def _chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    # multiples of 16 rows: a chunk of a kept stack then lies on the same alignment as one drawn anew, which some
    # kernels' results depend on
    size = max(CHUNK // columns // 16, 1) * 16
    for first in range(0, rows, size):
        yield first, min(first + size, rows)
