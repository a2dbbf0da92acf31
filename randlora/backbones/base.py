"""The interfaces of backbones: what every one offers to methods and budgets, and image backbones to image tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn

from randlora.adapter import Method, Targets
from randlora.checks import check_text
from randlora.sites import TargetError, find_sites

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Backbone(ABC):
    """A pre-trained model and what of it may be fine-tuned.

    Attributes:
        name: name used in messages and saved adapters.
        targets: patterns of the weight matrices that adapters update (see :func:`randlora.sites.find_sites`).
        scope: globs over parameter names: what full fine-tuning trains.
    """

    kind: ClassVar[str]  # what it is, in messages
    name: str
    targets: Sequence[str]
    scope: Sequence[str]

    def __post_init__(self) -> None:
        check_text(self, "name")
        for field in ("targets", "scope"):
            value = getattr(self, field)
            if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"backbone {self.name}: {field} = {value!r}; valid: a list of patterns")
            object.__setattr__(self, field, tuple(value))

    @property
    def packed(self) -> bool:
        """Whether weights are loaded in fewer bits than those of the skeleton have."""
        return False

    @abstractmethod
    def skeleton(self) -> nn.Module:
        """Return the model on the meta device: shapes and names without weights."""

    @abstractmethod
    def build(self, *, root: Path, device: torch.device, seed: int = 0) -> nn.Module:
        """Return the model with its weights, in float32.

        Args:
            root: folder that relative weight paths start from.
            device: where to put it.
            seed: used only where the backbone has no weights and starts at random.

        Raises:
            WeightsError: if the weights are not there or not whole; the message says how to get them.
        """

    @abstractmethod
    def weights_digest(self, *, root: Path) -> str | None:
        """Return the SHA-256 of the local weights, or None where the weights are random or a hub manages them."""

    @abstractmethod
    def missing_weights(self, *, root: Path) -> str | None:
        """Return which weights are not on this machine, in words, or None where none are missing.

        Looks at files and at the caches of the libraries; downloads nothing and reads no weights.
        """

    @abstractmethod
    def probe(self, model: nn.Module, *, batch: int, generator: torch.Generator) -> Callable[[], Tensor]:
        """Return a function that runs the model on random inputs, drawn once, and returns its outputs.

        Every parameter of the full fine-tuning scope has a part in the outputs, so that a gradient reaches it.

        Args:
            model: the model; its mode and its adapters are those at each call.
            batch: number of inputs.
            generator: a CPU generator.
        """

    @abstractmethod
    def recompute_blocks(self, model: nn.Module) -> None:
        """Let the model keep only the inputs of its transformer blocks, and run each again in the backward pass.

        Takes effect in training mode and changes no bit of a result.
        """

    @abstractmethod
    def with_random_weights(self) -> Self:
        """Return the backbone without its weights: ``build`` starts at random from the seed."""

    def check_method(self, method: Method) -> None:  # noqa: B027 - most backbones take any method
        """Raise ValueError where the method cannot be applied to the weights as the backbone loads them."""

    def targets_of(self, model: nn.Module) -> Targets:
        """Return the sites and the full fine-tuning scope found in the model.

        Raises:
            TargetError: if a pattern matches nothing.
        """
        sites = find_sites(model, self.targets, model_name=self.name)
        names = {name: parameter.numel() for name, parameter in model.named_parameters()}
        for pattern in self.scope:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise TargetError(f"scope '{pattern}' matched none of the {len(names)} parameters of {self.name}")
        scoped = {n: size for n, size in names.items() if any(fnmatchcase(n, pattern) for pattern in self.scope)}
        return Targets(sites=sites, parameters=scoped)


@dataclass(frozen=True, kw_only=True)
class LanguageBackbone(Backbone):
    """A backbone that continues texts."""

    kind: ClassVar[str] = "language model"

    @abstractmethod
    def tokenizer(self, *, root: Path) -> PreTrainedTokenizerBase:
        """Return the tokenizer that belongs to the weights; it pads on the left and has a padding token.

        Args:
            root: folder that relative weight paths start from.

        Raises:
            WeightsError: if there is none.
        """

    @property
    def like_blocks(self) -> int | None:
        """The number of transformer blocks; None where they are not all of one kind, or it cannot be changed."""
        return None

    def with_blocks(self, count: int) -> Self:
        """Return the backbone with another number of blocks and without weights; only where they are of one kind."""
        raise ValueError(f"backbone {self.name} has one depth only")


@dataclass(frozen=True, kw_only=True)
class ImageBackbone(Backbone):
    """A backbone that turns images into features; some have a text tower beside."""

    kind: ClassVar[str] = "image backbone"
    has_text: ClassVar[bool] = False

    @abstractmethod
    def image_size(self, model: nn.Module) -> int:
        """Return the side of the input images in pixels."""

    @abstractmethod
    def image_statistics(self, model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the per-channel mean and standard deviation of input images in [0, 1]."""

    @abstractmethod
    def image_features(self, model: nn.Module, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return features of unit length where the model compares them, raw features otherwise."""

    @abstractmethod
    def feature_size(self, model: nn.Module) -> int:
        """Return the width of the image features."""

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "n length"]:
        """Return token ids.

        Raises:
            ValueError: if the backbone has no text tower.
        """
        raise ValueError(_no_text(self.name))

    def text_features(self, model: nn.Module, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        """Return text features of unit length; raises ValueError if the backbone has no text tower."""
        raise ValueError(_no_text(self.name))

    def probe(self, model: nn.Module, *, batch: int, generator: torch.Generator) -> Callable[[], Tensor]:
        """Return a function that computes the features of random images."""
        size = self.image_size(model)
        images = torch.randn(batch, 3, size, size, generator=generator).to(next(model.parameters()).device)
        return lambda: self.image_features(model, images)


def _no_text(name: str) -> str:
    return f"backbone {name} has no text tower; use a recipe with a linear head"
