"""Classification heads on image features: frozen from class texts, or linear and trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from randlora.backbones.base import ImageBackbone
from randlora.checks import check_share, is_number
from randlora.seeds import generator_for
from randlora.tasks.base import ImageObjective, ImageTask, Vocabulary
from randlora.tasks.image_text import class_embeddings

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FrozenTextHead(ImageTask):
    """The image tower alone, under a head made once from the data set's templates (paper section 5.2, vision only).

    Attributes:
        label_smoothing: of the cross-entropy.
    """

    needs_text: ClassVar[bool] = True
    label_smoothing: float

    def __post_init__(self) -> None:
        check_share(self, "label_smoothing", one=False)

    def build(
        self, *, backbone: ImageBackbone, model: nn.Module, vocabulary: Vocabulary, seed: int
    ) -> FrozenTextObjective:
        """Return the objective; the head comes from the text tower as it is now."""
        device = next(model.parameters()).device
        tokens = [backbone.tokenize(vocabulary.prompts(t)).to(device) for t in vocabulary.templates]
        with torch.no_grad():
            weights = class_embeddings(backbone, model, tokens)
            scale = float(model.get_parameter("logit_scale").exp())
        return FrozenTextObjective(backbone, model, weights * scale, label_smoothing=self.label_smoothing)


class FrozenTextObjective(ImageObjective):
    """See :class:`FrozenTextHead`."""

    weights: Tensor

    def __init__(self, backbone: ImageBackbone, model: nn.Module, weights: Tensor, *, label_smoothing: float) -> None:
        super().__init__(backbone, model)
        self.register_buffer("weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, images: Float[Tensor, "n 3 h w"], labels: Int[Tensor, " n"], *, step: int) -> Float[Tensor, ""]:
        """Return the cross-entropy under the frozen head."""
        logits = self.logits(images, self.weights).float()
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def classifier(self) -> Float[Tensor, "classes d"]:
        """Return the frozen head."""
        return self.weights


@dataclass(frozen=True, kw_only=True)
class LinearHead(ImageTask):
    """A trained linear head on image features, without bias (paper section 5.2, DINOv2).

    Attributes:
        initial_std: standard deviation of its normal start.
        label_smoothing: of the cross-entropy.
    """

    has_head: ClassVar[bool] = True
    initial_std: float
    label_smoothing: float

    def __post_init__(self) -> None:
        if not is_number(self.initial_std) or self.initial_std < 0:
            raise ValueError(f"LinearHead.initial_std = {self.initial_std!r}; valid: a number of 0 or more")
        check_share(self, "label_smoothing", one=False)

    def head_size(self, *, backbone: ImageBackbone, model: nn.Module, n_classes: int) -> int:
        """Return classes times feature width."""
        return n_classes * backbone.feature_size(model)

    def build(self, *, backbone: ImageBackbone, model: nn.Module, vocabulary: Vocabulary, seed: int) -> LinearObjective:
        """Return the objective with a fresh head."""
        width = backbone.feature_size(model)
        start = torch.randn(len(vocabulary.classes), width, generator=generator_for(seed, "head")) * self.initial_std
        device = next(model.parameters()).device
        return LinearObjective(backbone, model, start.to(device), label_smoothing=self.label_smoothing)


class LinearObjective(ImageObjective):
    """See :class:`LinearHead`."""

    def __init__(self, backbone: ImageBackbone, model: nn.Module, start: Tensor, *, label_smoothing: float) -> None:
        super().__init__(backbone, model)
        linear = nn.Linear(start.shape[1], start.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(start)
        self.linear = linear
        self.head["linear"] = linear
        self.label_smoothing = label_smoothing

    def forward(self, images: Float[Tensor, "n 3 h w"], labels: Int[Tensor, " n"], *, step: int) -> Float[Tensor, ""]:
        """Return the cross-entropy under the head."""
        logits = self.linear(self.backbone.image_features(self.model, images)).float()
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def classifier(self) -> Float[Tensor, "classes d"]:
        """Return the head's weights."""
        return self.linear.weight.detach()
