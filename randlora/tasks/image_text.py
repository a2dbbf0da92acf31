"""Two-tower fine-tuning: images against the texts of their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from randlora.backbones.base import ImageBackbone
from randlora.checks import check_choice, check_share
from randlora.tasks.base import ImageObjective, ImageTask, Vocabulary

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Negatives = Literal["classes", "batch"]
Temperature = Literal["exponential", "raw"]
Prompts = Literal["prompt", "templates"]


@dataclass(frozen=True, kw_only=True)
class ImageText(ImageTask):
    """Cross-entropy of image features against text features, both towers in the graph.

    Attributes:
        negatives: ``classes`` contrasts with the texts of all classes; ``batch`` with the texts of the batch's own
            labels, the target being the first sample of the same class (the released code; paper facts section 6.1).
        temperature: multiply similarities by ``exp(logit_scale)`` (CLIP's definition) or by ``logit_scale`` as stored
            (``raw``, what the released code does, an effective scale of 4.6 for OpenAI's weights).
        train_prompts: ``prompt``, the data set's one template, or ``templates``, one of its templates per step in turn.
        test_prompts: ``prompt``, or the average over ``templates``.
        label_smoothing: of the cross-entropy.
    """

    needs_text: ClassVar[bool] = True
    negatives: Negatives
    temperature: Temperature
    train_prompts: Prompts
    test_prompts: Prompts
    label_smoothing: float

    def __post_init__(self) -> None:
        check_choice(self, "negatives", ("classes", "batch"))
        check_choice(self, "temperature", ("exponential", "raw"))
        check_choice(self, "train_prompts", ("prompt", "templates"))
        check_choice(self, "test_prompts", ("prompt", "templates"))
        check_share(self, "label_smoothing", one=False)

    @property
    def separable(self) -> bool:
        """See :attr:`randlora.tasks.base.Task.separable`; negatives from the batch depend on all of it."""
        return self.negatives == "classes"

    def build(
        self, *, backbone: ImageBackbone, model: nn.Module, vocabulary: Vocabulary, seed: int
    ) -> ImageTextObjective:
        """Return the objective with every prompt tokenized."""
        return ImageTextObjective(self, backbone, model, vocabulary)


class ImageTextObjective(ImageObjective):
    """See :class:`ImageText`."""

    def __init__(self, task: ImageText, backbone: ImageBackbone, model: nn.Module, vocabulary: Vocabulary) -> None:
        super().__init__(backbone, model)
        self.task = task
        both = {"prompt": [vocabulary.prompt], "templates": list(vocabulary.templates)}
        device = next(model.parameters()).device
        self.train_tokens = self._tokens(vocabulary, both[task.train_prompts], device)
        self.test_tokens = self._tokens(vocabulary, both[task.test_prompts], device)

    def forward(self, images: Float[Tensor, "n 3 h w"], labels: Int[Tensor, " n"], *, step: int) -> Float[Tensor, ""]:
        """Return the image-to-text cross-entropy."""
        tokens = self.train_tokens[step % len(self.train_tokens)]
        features = self.backbone.image_features(self.model, images)
        target = labels
        if self.task.negatives == "classes":
            texts = self.backbone.text_features(self.model, tokens)
        else:
            present, position = labels.unique(return_inverse=True)
            texts = self.backbone.text_features(self.model, tokens[present])[position]
            target = (labels[:, None] == labels).int().argmax(1)
        logits = (self._scale() * features @ texts.T).float()
        return F.cross_entropy(logits, target, label_smoothing=self.task.label_smoothing)

    @torch.no_grad()
    def classifier(self) -> Float[Tensor, "classes d"]:
        """Return the mean text feature of each class over the test prompts."""
        return class_embeddings(self.backbone, self.model, self.test_tokens)

    def _scale(self) -> Tensor:
        scale = self.model.get_parameter("logit_scale")
        return scale.exp() if self.task.temperature == "exponential" else scale

    def _tokens(self, vocabulary: Vocabulary, templates: list[str], device: torch.device) -> list[Tensor]:
        return [self.backbone.tokenize(vocabulary.prompts(template)).to(device) for template in templates]


def class_embeddings(backbone: ImageBackbone, model: nn.Module, tokens: list[Tensor]) -> Float[Tensor, "classes d"]:
    """Return unit-length class embeddings, averaged over one token matrix per template."""
    total = torch.stack([backbone.text_features(model, matrix) for matrix in tokens]).mean(0)
    return F.normalize(total, dim=-1)
