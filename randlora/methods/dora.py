"""DoRA: a low-rank change of direction and a trained magnitude of every row (Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from randlora.adapter import Adapter, AdapterMethod, Shared, Site, Targets, check_rank
from randlora.checks import check_choice, check_flag, check_positive, check_whole
from randlora.methods.lora import lora_start
from randlora.scaling import SCALE_RULES, ScaleRule, scale_of


class DoRAAdapter(Adapter):
    """``W = m * (W0 + scale * B A) / ||W0 + scale * B A||`` by output row; ``m`` (out), ``B`` and ``A`` trained.

    Runs in the adapter's own dtype even under autocast: the norm at the start and the norm in a step are then the same
    bits, and ``m`` over the norm is exactly 1. A row of zeros has no direction; its ratio is taken as 1, so that it
    starts at zero and ``B`` has a gradient.
    """

    def __init__(self, a: Tensor, b: Tensor, *, scale: float, norm_gradient: bool) -> None:
        super().__init__()
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.magnitude = nn.Parameter(b.new_zeros(len(b)))
        self.scale = scale
        self.norm_gradient = norm_gradient

    def start_from(self, weight: Tensor) -> None:
        """Set the magnitudes to the norms of the rows of the base weight."""
        with torch.no_grad():
            self.magnitude.copy_(_norms(self._directed(weight)))

    def adapted(self, weight: Tensor) -> Tensor:
        """Return the weight with its rows turned and set to their magnitudes."""
        with torch.autocast(weight.device.type, enabled=False):
            directed = self._directed(weight)
            norms = _norms(directed) if self.norm_gradient else _norms(directed.detach())
            ratio = torch.where(norms > 0, self.magnitude / norms.clamp(min=torch.finfo(norms.dtype).tiny), 1)
            return (directed * ratio[:, None]).to(weight.dtype)

    def _directed(self, weight: Tensor) -> Tensor:
        # a sum and no addmm: it keeps the layout of the weight, on which the last bits of the reader's product depend
        return weight.to(self.a.dtype) + (self.b * self.scale) @ self.a


@dataclass(frozen=True, kw_only=True)
class DoRA(AdapterMethod):
    """Weight-decomposed low-rank adaptation. Trains ``r (out + in) + out`` numbers per matrix.

    Starts at the base weight, because B is zero and the magnitudes are the norms of its rows. The update is not of rank
    r: the magnitudes rescale every row of the base weight.

    Attributes:
        rank: *r*.
        alpha: numerator of the scale.
        scale_rule: see :func:`randlora.scaling.scale_of`; the RandLoRA paper uses alpha = 2r, a constant scale of 2.
        norm_gradient: differentiate through the norm; ``false`` takes it as a constant in the backward pass, as the
            DoRA paper proposes (section 4.3) and its implementations do.
    """

    rank: int
    alpha: float
    scale_rule: ScaleRule
    norm_gradient: bool

    def __post_init__(self) -> None:
        check_whole(self, "rank")
        check_positive(self, "alpha")
        check_choice(self, "scale_rule", SCALE_RULES)
        check_flag(self, "norm_gradient")

    @property
    def size_field(self) -> str:
        """``rank``."""
        return "rank"

    @property
    def exact_gradient(self) -> bool:
        """Whether the norm is differentiated."""
        return self.norm_gradient

    def check_site(self, site: Site) -> None:
        """Raise ValueError where the rank exceeds the shorter side."""
        check_rank(self, site, self.rank)

    def update_rank(self, site: Site) -> int:
        """Return the shorter side: rescaling the rows of a weight of full rank changes it by a matrix of full rank."""
        return site.short

    def n_trainable(self, site: Site) -> int:
        """Return r (out + in) + out."""
        return self.rank * (site.out_features + site.in_features) + site.out_features

    def largest_size(self, targets: Targets) -> int:
        """Return the smallest short side among the sites: no larger rank fits everywhere."""
        return min(site.short for site in targets.sites)

    def shared(self, sites: Sequence[Site], seed: int) -> Shared | None:
        """Return None: nothing is shared."""
        return None

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> DoRAAdapter:
        """Return an adapter with LoRA's start; its magnitudes are set when it meets the base weight."""
        a, b = lora_start(site, self.rank, generator)
        scale = scale_of(self.alpha, self.scale_rule, rank=self.rank)
        return DoRAAdapter(a, b, scale=scale, norm_gradient=self.norm_gradient)


def _norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=1)
