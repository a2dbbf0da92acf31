"""What a recipe asks of a model: an objective to train and classes to predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from randlora.backbones.base import Backbone, ImageBackbone

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words of a classification problem.

    Attributes:
        classes: class names in label order.
        prompt: template of image-text training, with ``{class}``.
        templates: templates averaged into the zero-shot head, each with ``{class}``.
    """

    classes: Sequence[str]
    prompt: str
    templates: Sequence[str]

    def prompts(self, template: str) -> list[str]:
        """Return one text per class."""
        return [template.replace("{class}", name) for name in self.classes]


class Objective(nn.Module, ABC):
    """A model with its loss.

    Attributes:
        backbone: what the model is.
        model: the model, adapted or not.
        head: modules trained beside the backbone; empty if none.
    """

    def __init__(self, backbone: Backbone, model: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.model = model
        self.head = nn.ModuleDict()

    @abstractmethod
    def forward(self, *batch: Any, **at: Any) -> Float[Tensor, ""]:
        """Return the mean training loss of a batch (tensors with the samples along their first side), ``step=`` given.

        Everything random in it comes from torch's generator, which the trainer seeds for each step.
        """

    def units(self, *batch: Tensor) -> int | Float[Tensor, ""]:
        """Return over how many things the loss of a batch is a mean; parts of a batch are weighted by it."""
        return len(batch[0])


class ImageObjective(Objective):
    """A model with its loss on images and its classifier."""

    backbone: ImageBackbone

    @abstractmethod
    def forward(self, images: Float[Tensor, "n 3 h w"], labels: Int[Tensor, " n"], *, step: int) -> Float[Tensor, ""]:
        """Return the training loss of a batch at a step."""

    @abstractmethod
    def classifier(self) -> Float[Tensor, "classes d"]:
        """Return the class weights for evaluation, computed once."""

    def logits(
        self, images: Float[Tensor, "n 3 h w"], classifier: Float[Tensor, "classes d"]
    ) -> Float[Tensor, "n classes"]:
        """Return class scores; only their order matters."""
        return self.backbone.image_features(self.model, images) @ classifier.T


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A frozen description of an objective."""

    has_head: ClassVar[bool] = False

    @property
    def separable(self) -> bool:
        """Whether the loss of a batch is the mean over its parts, so that processes can share a batch out."""
        return True

    @abstractmethod
    def check_backbone(self, backbone: Backbone) -> None:
        """Raise ValueError unless the backbone can do what the task asks of it."""


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """What is predicted of an image."""

    needs_text: ClassVar[bool] = False

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise ValueError unless the backbone turns images into features, and texts where the task needs them."""
        if not isinstance(backbone, ImageBackbone):
            raise ValueError(
                f"backbone {backbone.name} is a {backbone.kind}; the task {type(self).__name__} needs an image backbone"
            )
        if self.needs_text and not backbone.has_text:
            raise ValueError(
                f"backbone {backbone.name} has no text tower, which the task {type(self).__name__} needs; "
                "use a recipe with a linear head"
            )

    @abstractmethod
    def build(self, *, backbone: ImageBackbone, model: nn.Module, vocabulary: Vocabulary, seed: int) -> ImageObjective:
        """Return the objective around a model whose weights are loaded and not yet adapted."""

    def head_size(self, *, backbone: ImageBackbone, model: nn.Module, n_classes: int) -> int:
        """Return the number of trainable parameters of the head."""
        return 0
