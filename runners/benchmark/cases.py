"""What a benchmark runs on: a workload is a list of cases, a case is a model with an input and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from randlora.checks import check_choice, check_text

if TYPE_CHECKING:
    from torch import Tensor

    from randlora.adapter import Targets

Precision = Literal["float32", "bfloat16_autocast", "bfloat16_weights"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16_autocast", "bfloat16_weights")


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """One model, input and loss that every subject is measured on.

    Attributes:
        name: as it stands in tables.
        precision: ``float32``; ``bfloat16_autocast``, float32 weights under autocast; ``bfloat16_weights``, a model in
            bfloat16 whose adapters are float32.
        layer: output and input features where the case is a single linear layer.
        tokens: rows of the input where the case is one of several numbers of tokens.
    """

    name: str
    precision: Precision
    layer: tuple[int, int] | None = None
    tokens: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's weights."""
        return torch.bfloat16 if self.precision == "bfloat16_weights" else torch.float32

    @abstractmethod
    def build(self, *, device: torch.device, seed: int) -> nn.Module:
        """Return the model at random weights, in :attr:`dtype`."""

    @abstractmethod
    def targets(self, model: nn.Module) -> Targets:
        """Return the sites and the scope of full fine-tuning."""

    @abstractmethod
    def inputs(self, model: nn.Module, *, device: torch.device, seed: int) -> Mapping[str, Tensor]:
        """Return the input of one step; the first dimension of each tensor is the batch."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Workload(ABC):
    """What `conf/workload` describes.

    Attributes:
        title: heading of its tables and plots.
        precision: see :class:`Case`.
    """

    title: str
    precision: Precision

    def __post_init__(self) -> None:
        check_text(self, "title")
        check_choice(self, "precision", PRECISIONS)

    @abstractmethod
    def cases(self) -> Sequence[Case]:
        """Return the cases to measure, one after another."""


def check_whole_list(workload: Workload, field: str, *, length: int | None = None) -> None:
    """Raise ValueError unless the field is a list of whole numbers of 1 or more, of the length if given."""
    value = getattr(workload, field)
    fits = isinstance(value, (list, tuple)) and len(value) > 0 and length in (None, len(value))
    if not fits or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in value):
        what = f"{length} " if length else ""
        raise ValueError(f"{type(workload).__name__}.{field} = {value!r}; valid: a list of {what}whole numbers above 0")


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator; inputs are drawn on the CPU, so they are the same on every device."""
    return torch.Generator().manual_seed(seed)


def weigh(outputs: Tensor, direction: Tensor) -> Tensor:
    """Return a loss whose gradient at the outputs is ``direction``: what layers above would send down."""
    return (outputs * direction).sum()
