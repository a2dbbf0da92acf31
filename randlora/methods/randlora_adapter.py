"""The adapters of RandLoRA: sum of products (the method) and product of sums (variant a of paper Table 2)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from randlora.adapter import Shared, Site, TwoFactorAdapter

Stacking = Literal["basis_major", "rank_major"]
AT_ONCE = 2**21  # numbers of the stack that a backward pass weighs at a time, 8 MiB in float32


class ScaledBasis(torch.autograd.Function):
    """The stack of ``Lambda_j A Gamma_j`` (n r x d), remembering only its three small inputs (paper appendix C.5.1).

    Row ``j r + k`` is ``lambda_jk A_k gamma_j``; under ``rank_major`` it is row ``k n + j``.
    """

    @staticmethod
    def forward(ctx: Any, basis: Tensor, lambdas: Tensor, gammas: Tensor, rank_major: bool) -> Tensor:
        """Return the stack from ``basis`` (r x d, frozen), ``lambdas`` (n x r) and ``gammas`` (n x d)."""
        ctx.save_for_backward(basis, lambdas, gammas)
        ctx.rank_major = rank_major
        if rank_major:
            return ((lambdas.T[:, :, None] * gammas) * basis[:, None, :]).flatten(0, 1)
        return (lambdas[:, :, None] * basis * gammas[:, None, :]).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        """Return gradients of the diagonals; the basis has none."""
        basis, lambdas, gammas = ctx.saved_tensors
        grad = grad.to(gammas.dtype)
        if ctx.rank_major:
            grad = grad.unflatten(0, lambdas.T.shape).transpose(0, 1)
        else:
            grad = grad.unflatten(0, lambdas.shape)
        grad_lambdas, grad_gammas = torch.empty_like(lambdas), torch.empty_like(gammas)
        # some bases at a time: the product is as large as the stack
        some = max(1, AT_ONCE // basis.numel())
        for start in range(0, len(lambdas), some):
            part = slice(start, start + some)
            weighted = grad[part] * basis
            grad_lambdas[part] = (weighted @ gammas[part, :, None]).squeeze(2)
            grad_gammas[part] = (lambdas[part, None, :] @ weighted).squeeze(1)
        return None, grad_lambdas, grad_gammas, None


class _Diagonals(TwoFactorAdapter):
    """What both compositions train and share."""

    def __init__(self, lambdas: Tensor, gammas: Tensor, *, shared: Shared, site: Site, scale: float) -> None:
        super().__init__()
        self.lambdas = nn.Parameter(lambdas)
        self.gammas = nn.Parameter(gammas)
        self.bases = shared
        self.long = site.long
        self.tall = site.out_features >= site.in_features
        self.scale = scale

    def _oriented(self, long: Tensor, short: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factor of the longer side (D x k) and of the shorter (k x d) in the order that fits the site."""
        return (long, short) if self.tall else (short.T, long.T)


class RandLoRAAdapter(_Diagonals):
    """``update = scale * sum_j B_j Lambda_j A Gamma_j`` (eq. 4), transposed where the input is the longer side."""

    keeps_factors: ClassVar[bool] = False

    def __init__(
        self, lambdas: Tensor, gammas: Tensor, *, shared: Shared, site: Site, scale: float, stacking: Stacking
    ) -> None:
        super().__init__(lambdas, gammas, shared=shared, site=site, scale=scale)
        self.stacking = stacking

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the bases and the scaled stack, in the order that fits the site."""
        bases, rank = self.lambdas.shape
        long = self.bases.slice("long", self.long, bases * rank)
        short = self.bases.slice("short", rank, self.gammas.shape[1])
        stack = ScaledBasis.apply(short, self.lambdas * self.scale, self.gammas, self.stacking == "rank_major")
        return self._oriented(long, stack)


class AveragedAdapter(_Diagonals):
    """``update = scale * (sum_j B_j Lambda_j) (sum_j A_j Gamma_j)``: as many numbers as RandLoRA, but of rank r."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two averages, in the order that fits the site."""
        bases, rank = self.lambdas.shape
        long = self.bases.slice("long", self.long, bases * rank).unflatten(1, (bases, rank))
        short = self.bases.slice("short", bases * rank, self.gammas.shape[1]).unflatten(0, (bases, rank))
        left = torch.einsum("mjr,jr->mr", long, self.lambdas * self.scale)
        return self._oriented(left, torch.einsum("jrd,jd->rd", short, self.gammas))
