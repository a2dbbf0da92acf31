"""Vision transformers through timm, such as DINOv2."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from randlora.backbones.base import ImageBackbone
from randlora.backbones.errors import WeightsError, not_downloaded, other_architecture, unreadable
from randlora.backbones.files import digest, in_hub_cache, weights_file
from randlora.backbones.random_start import own_stream
from randlora.backbones.torchvision_guard import import_torchvision
from randlora.checks import check_text, check_whole, is_number

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TimmVision(ImageBackbone):
    """A vision transformer of timm without its classifier. Has no text tower.

    Attributes:
        model: an architecture of timm, such as ``vit_base_patch14_dinov2``.
        pretrained: tag of published weights (``lvd142m``), downloaded by timm on first use; None for none.
        checkpoint: weights file of timm or of the model's authors, relative to the suite's root; takes the place of the
            tag. With neither, the model starts at random from the run's seed.
        pixels: side of the input images in pixels; position embeddings of another size are resampled.
        mean: per channel, of input images in [0, 1]; None for the architecture's own.
        std: as ``mean``.
        overrides: arguments of the architecture to change, such as ``depth``; weights must fit them.
    """

    model: str
    pretrained: str | None
    checkpoint: str | None
    pixels: int
    mean: Sequence[float] | None
    std: Sequence[float] | None
    overrides: Mapping[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "model")
        check_text(self, "pretrained", "checkpoint", optional=True)
        check_whole(self, "pixels")
        for name, valid in (("mean", "three numbers"), ("std", "three numbers above 0")):
            value = getattr(self, name)
            if value is None:
                continue
            fits = isinstance(value, list | tuple) and len(value) == 3 and all(map(is_number, value))
            if not fits or (name == "std" and min(value) <= 0):
                raise ValueError(f"TimmVision.{name} = {value!r}; valid: {valid}, or null")
            object.__setattr__(self, name, tuple(value))
        if not isinstance(self.overrides, Mapping):
            raise ValueError(f"TimmVision.overrides = {self.overrides!r}; valid: a mapping of arguments, or {{}}")

    def skeleton(self) -> nn.Module:
        """Return the model on the meta device."""
        with torch.device("meta"):
            return self._architecture()

    def build(self, *, root: Path, device: torch.device, seed: int = 0) -> nn.Module:
        """Return the model in evaluation-ready float32 with its weights loaded."""
        with own_stream(seed):
            model = self._architecture()
        if self.checkpoint is not None:
            self._load_file(model, weights_file(self.checkpoint, root=root, name=self.name))
        elif self.pretrained is not None:
            self._load_tag(model)
        return model.float().to(device)

    def weights_digest(self, *, root: Path) -> str | None:
        """Return the SHA-256 of the checkpoint file, None for a tag or a random start."""
        if self.checkpoint is None:
            return None
        return digest([weights_file(self.checkpoint, root=root, name=self.name)])

    def missing_weights(self, *, root: Path) -> str | None:
        """Return the checkpoint or tag where its file is neither given nor in the cache of the hub."""
        if self.checkpoint is not None:
            path = (root / self.checkpoint).expanduser()
            return None if path.is_file() else f"no file {path}"
        if self.pretrained is None:
            return None
        config = _timm().models.get_pretrained_cfg(f"{self.model}.{self.pretrained}", allow_unregistered=True)
        repository = getattr(config, "hf_hub_id", None) or ""
        repository = repository or f"timm/{self.model}.{self.pretrained}"
        return None if in_hub_cache(repository) else f"{self.model} / {self.pretrained}, from {repository}"

    def image_size(self, model: nn.Module) -> int:
        """Return the side of the input images in pixels."""
        return self.pixels

    def image_statistics(self, model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the stated mean and standard deviation, else those of the architecture."""
        own: Any = model.pretrained_cfg
        mean, std = self.mean or own["mean"], self.std or own["std"]
        return tuple(mean), tuple(std)

    def image_features(self, model: nn.Module, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the pooled features before the classifier (the class token of DINOv2), of any length."""
        return model(images)

    def feature_size(self, model: nn.Module) -> int:
        """Return the width of the transformer."""
        width: Any = model.num_features
        return int(width)

    def recompute_blocks(self, model: nn.Module) -> None:
        """See :meth:`randlora.backbones.base.Backbone.recompute_blocks`."""
        vision: Any = model
        vision.set_grad_checkpointing(True)

    def with_random_weights(self) -> Self:
        """Return the backbone with neither checkpoint nor tag."""
        return replace(self, pretrained=None, checkpoint=None)

    def _architecture(self) -> nn.Module:
        timm = _timm()
        if not timm.is_model(self.model):
            near = difflib.get_close_matches(self.model, timm.list_models("vit*"), n=3)
            hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models('vit*')"
            raise ValueError(f"backbone {self.name}: timm has no architecture {self.model!r}; {hint}")
        try:
            model = timm.create_model(self.model, num_classes=0, img_size=self.pixels, **self.overrides)
        except Exception as error:
            raise ValueError(f"backbone {self.name}: {self.model} cannot be made: {error}") from error
        if not isinstance(model, timm.models.vision_transformer.VisionTransformer):
            raise ValueError(f"backbone {self.name}: {self.model} is no vision transformer of timm's plain kind")
        return model

    def _load_tag(self, model: nn.Module) -> None:
        timm = _timm()
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{self.model}.*")]
        if self.pretrained not in tags:
            raise WeightsError(
                f"backbone {self.name}: no weights tagged {self.pretrained!r} for {self.model}; "
                f"there are: {', '.join(tags) or 'none'}"
            )
        try:
            whole = timm.create_model(
                f"{self.model}.{self.pretrained}", pretrained=True, num_classes=0, img_size=self.pixels
            )
        except Exception as error:
            raise not_downloaded(self.name, f"{self.model} / {self.pretrained}", error) from error
        self._put(model, whole.state_dict(), f"{self.model} / {self.pretrained}")

    def _load_file(self, model: nn.Module, path: Path) -> None:
        timm = _timm()
        try:
            state = timm.models.load_state_dict(str(path), weights_only=True)
        except Exception as error:
            raise unreadable(self.name, path, error) from error
        try:
            state = timm.models.vision_transformer.checkpoint_filter_fn(state, model)
        except Exception as error:
            raise other_architecture(self.name, path, error) from error
        self._put(model, {key: value for key, value in state.items() if not key.startswith("head.")}, str(path))

    def _put(self, model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise other_architecture(self.name, source, error) from error


@cache
def _timm() -> ModuleType:
    import_torchvision()
    import timm
    import timm.models.vision_transformer

    return timm
