"""The contract between a fine-tuning method and everything else: sites, adapters, methods."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from randlora.checks import check_choice
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.rebuild import offer_from
from randlora.shared import Shared

if TYPE_CHECKING:
    from jaxtyping import Float

    from randlora.inject import Adaptation

Contraction = Literal["auto", "weight", "activation"]
CONTRACTIONS: tuple[Contraction, ...] = ("auto", "weight", "activation")


@dataclass(frozen=True, kw_only=True)
class Site:
    """One weight matrix of a model that may be adapted.

    Attributes:
        name: full parameter name in the unadapted model, such as
            ``visual.transformer.resblocks.0.attn.in_proj_weight``.
        out_features: rows of the matrix as it acts on column vectors.
        in_features: columns of the matrix.
        transposed: the model stores the matrix as ``in x out`` (Hugging Face ``Conv1D``).
        linear: the owning module computes ``x W^T + b`` and nothing else, so an update may run on activations.
    """

    name: str
    out_features: int
    in_features: int
    transposed: bool = False
    linear: bool = True

    @property
    def short(self) -> int:
        """The shorter side, *d* in the paper."""
        return min(self.out_features, self.in_features)

    @property
    def long(self) -> int:
        """The longer side, *D* in the paper."""
        return max(self.out_features, self.in_features)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a backbone offers for fine-tuning.

    Attributes:
        sites: the matrices that adapters may update.
        parameters: name and number of elements of each parameter that full fine-tuning trains.
    """

    sites: tuple[Site, ...]
    parameters: Mapping[str, int] = field(default_factory=dict)


class Adapter(nn.Module, ABC):
    """A trainable change of one weight matrix. The base weight is read, never written.

    Subclasses register their trainable tensors as parameters and may refer to a :class:`Shared` of the model.
    """

    def start_from(self, weight: Float[Tensor, "out in"]) -> None:
        """Set what starts from the base weight; called once, when the adapter is put on its site."""

    @abstractmethod
    def adapted(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Return the weight as it is used in place of ``weight``, in its dtype (weight form)."""


class UpdateAdapter(Adapter):
    """An adapter that adds an update to the weight, whatever the weight is."""

    @abstractmethod
    def delta(self) -> Float[Tensor, "out in"]:
        """Return the update as a matrix."""

    def adapted(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Return the weight plus the update."""
        return weight + self.delta().to(weight.dtype)


class TwoFactorAdapter(UpdateAdapter):
    """An adapter whose update is a product of two factors, which can run on activations as well.

    Attributes:
        keeps_factors: whether the backward pass of activation form finds the factors where the forward pass left them;
            False where they are large and made by few operations, which are then taken again.
    """

    keeps_factors: ClassVar[bool] = True

    @abstractmethod
    def factors(self) -> tuple[Float[Tensor, "out k"], Float[Tensor, "k in"]]:
        """Return ``left`` and ``right`` with ``update = left @ right``, scale included."""

    def delta(self) -> Float[Tensor, "out in"]:
        """Return the product of the factors."""
        left, right = self.factors()
        return left @ right

    def factors_in(self, dtype: torch.dtype) -> tuple[Float[Tensor, "out k"], Float[Tensor, "k in"]]:
        """Return the factors in the dtype of a product; slices of frozen bases are cast once per model."""
        left, right = self.factors()
        return self._cast(left, dtype), self._cast(right, dtype)

    def adapted(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Return the weight with the update applied, in one matrix product."""
        return torch.addmm(weight, *self.factors_in(product_dtype(weight)))

    def _cast(self, factor: Tensor, dtype: torch.dtype) -> Tensor:
        if factor.dtype == dtype:
            return factor
        if not factor.requires_grad and not torch.compiler.is_compiling():
            for part in self.children():
                if isinstance(part, Shared) and (low := part.lowered(factor, dtype)) is not None:
                    return low
        return offer_from(factor, factor.to(dtype), lambda source: source.to(dtype))


def product_dtype(operand: Tensor) -> torch.dtype:
    """Return the dtype in which a matrix product with the operand runs: autocast's where it applies, else its own."""
    kind = operand.device.type
    lowered = torch.is_autocast_enabled(kind) and operand.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if lowered else operand.dtype


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to fine-tune a model: a frozen dataclass of hyper-parameters."""

    trains_backbone: ClassVar[bool] = True
    adds_parameters: ClassVar[bool] = False  # whether what is trained comes on top of the model's own parameters

    @property
    def size_field(self) -> str | None:
        """The field that sets the number of trainable parameters, None where no field does."""
        return None

    @property
    def starts_at_base(self) -> bool:
        """Whether the model computes bit for bit what it did before, until the first step."""
        return True

    @abstractmethod
    def count(self, targets: Targets) -> int:
        """Return the number of trainable parameters on the targets, in closed form."""

    @abstractmethod
    def apply(
        self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
    ) -> Adaptation:
        """Freeze the model, make its trainable part, and return the handle to both."""

    def check_task(self, *, has_head: bool) -> None:  # noqa: B027 - most methods go with any task
        """Raise ValueError where the method makes no sense with a task that trains a head, or that does not."""

    def resized(self, size: int) -> Self:
        """Return the method with its size field replaced."""
        field_name = self.size_field
        if field_name is None:
            raise ValueError(f"{type(self).__name__} has no size to set")
        return dataclasses.replace(self, **{field_name: size})

    def largest_size(self, targets: Targets) -> int:
        """Return the largest value of the size field that makes sense on the targets."""
        raise ValueError(f"{type(self).__name__} has no size to set")

    def to_config(self) -> dict[str, Any]:
        """Return the method as plain data with its class under ``_target_``."""
        cls = type(self)
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class AdapterMethod(Method):
    """A method that puts one adapter on each site."""

    adds_parameters: ClassVar[bool] = True

    @abstractmethod
    def shared(self, sites: Sequence[Site], seed: int) -> Shared | None:
        """Return the frozen tensors of the model, grown from the seed alone, or None."""

    @abstractmethod
    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> Adapter:
        """Return a fresh adapter of one site, on the CPU in float32."""

    @abstractmethod
    def n_trainable(self, site: Site) -> int:
        """Return the number of trainable parameters of the site's adapter, in closed form."""

    def update_rank(self, site: Site) -> int | None:
        """Return the rank that a trained update of the site cannot exceed; None: no claim."""
        return None

    @property
    def reaches_update_rank(self) -> bool:
        """Whether trained updates reach the rank that they cannot exceed."""
        return True

    @property
    def exact_gradient(self) -> bool:
        """Whether the backward pass of an adapter is the derivative of its forward pass."""
        return True

    def check_site(self, site: Site) -> None:
        """Raise ValueError, naming the site, where the hyper-parameters do not fit it."""

    def count(self, targets: Targets) -> int:
        """Return the number of trainable parameters over all sites."""
        return sum(self.n_trainable(site) for site in targets.sites)

    def apply(
        self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
    ) -> Adaptation:
        """Freeze the model and inject one adapter per site."""
        from randlora.inject import inject

        return inject(model, method=self, sites=targets.sites, seed=seed, execution=execution)


@dataclass(frozen=True, kw_only=True)
class TwoFactorMethod(AdapterMethod):
    """A method whose adapters are :class:`TwoFactorAdapter`, sized by a rank.

    Attributes:
        contraction: how updates run: ``weight`` forms ``W + left @ right``, ``activation`` adds ``(x right^T) left^T``,
            ``auto`` picks per call the one with fewer multiply-adds.
    """

    contraction: Contraction

    def __post_init__(self) -> None:
        check_choice(self, "contraction", CONTRACTIONS)

    @property
    def size_field(self) -> str:
        """``rank``, unless a method names another."""
        return "rank"

    def largest_size(self, targets: Targets) -> int:
        """Return the smallest short side among the sites: no larger rank fits everywhere."""
        return min(site.short for site in targets.sites)


def check_rank(method: AdapterMethod, site: Site, rank: int) -> None:
    """Raise ValueError, naming the site, unless ``1 <= rank <= short side``."""
    if not 1 <= rank <= site.short:
        raise ValueError(
            f"{type(method).__name__}: rank {rank} does not fit site '{site.name}' "
            f"({site.out_features} x {site.in_features}); valid: 1 to {site.short}, the shorter side"
        )
