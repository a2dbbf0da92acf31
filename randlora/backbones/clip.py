"""CLIP models through open_clip: published ones by tag or file, and the embedded micro_clip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self
from zipfile import ZipFile, is_zipfile

import torch
from torch import nn

from randlora.backbones.base import ImageBackbone
from randlora.backbones.errors import WeightsError, not_downloaded, other_architecture, unreadable
from randlora.backbones.files import digest, in_hub_cache, weights_file
from randlora.backbones.random_start import own_stream
from randlora.backbones.torchvision_guard import import_torchvision
from randlora.checks import check_text

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

OWN_CONFIGS = Path(__file__).parent
OPEN_CLIP_CACHE = Path("~/.cache/clip")  # of weights that are at an address of their own
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # plain numbers in OpenAI's files


@dataclass(frozen=True, kw_only=True)
class OpenClip(ImageBackbone):
    """A two-tower CLIP.

    Attributes:
        model: an architecture of open_clip (such as ``ViT-B-32-quickgelu``) or one of ours (``micro_clip``).
        pretrained: tag of published weights (``openai``), downloaded by open_clip on first use; None for none.
        checkpoint: weights file, relative to the suite's root; takes the place of the tag. With neither, the model
            starts at random from the run's seed.
    """

    has_text: ClassVar[bool] = True
    model: str
    pretrained: str | None
    checkpoint: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "model")
        check_text(self, "pretrained", "checkpoint", optional=True)

    def skeleton(self) -> nn.Module:
        """Return the model on the meta device."""
        with torch.device("meta"):
            return self._architecture()

    def build(self, *, root: Path, device: torch.device, seed: int = 0) -> nn.Module:
        """Return the model in evaluation-ready float32 with its weights loaded."""
        with own_stream(seed):
            model = self._architecture()
        if self.checkpoint is not None:
            _load_file(model, weights_file(self.checkpoint, root=root, name=self.name), name=self.name)
        elif self.pretrained is not None:
            self._load_tag(model)
        return model.float().to(device)

    def weights_digest(self, *, root: Path) -> str | None:
        """Return the SHA-256 of the checkpoint file, None for a tag or a random start."""
        if self.checkpoint is None:
            return None
        return digest([weights_file(self.checkpoint, root=root, name=self.name)])

    def missing_weights(self, *, root: Path) -> str | None:
        """Return the checkpoint or tag where its file is neither given nor in the caches of open_clip."""
        if self.checkpoint is not None:
            path = (root / self.checkpoint).expanduser()
            return None if path.is_file() else f"no file {path}"
        if self.pretrained is None:
            return None
        config = _open_clip().pretrained.get_pretrained_cfg(self.model, self.pretrained) or {}
        repository, url = config.get("hf_hub", "").rstrip("/"), config.get("url", "")
        if repository and in_hub_cache("/".join(repository.split("/")[:2])):
            return None
        if url and (OPEN_CLIP_CACHE.expanduser() / Path(url).name).is_file():
            return None
        return f"{self.model} / {self.pretrained}, from {repository or url or 'no place that open_clip knows'}"

    def image_size(self, model: nn.Module) -> int:
        """Return the side of the input images in pixels."""
        visual: Any = model.visual
        size = visual.image_size
        return int(size[0] if isinstance(size, (tuple, list)) else size)

    def image_statistics(self, model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and standard deviation of OpenAI's CLIP."""
        constants = _open_clip().constants
        return tuple(constants.OPENAI_DATASET_MEAN), tuple(constants.OPENAI_DATASET_STD)

    def image_features(self, model: nn.Module, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return image embeddings of unit length."""
        clip: Any = model
        return clip.encode_image(images, normalize=True)

    def feature_size(self, model: nn.Module) -> int:
        """Return the width of the joint embedding."""
        visual: Any = model.visual
        return int(visual.output_dim)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "n length"]:
        """Return token ids padded to the context length; raises ValueError for a text that does not fit."""
        tokenizer = self._tokenizer()
        limit = tokenizer.context_length - 2
        for text in texts:
            if (length := len(tokenizer.encode(text.strip().lower()))) > limit:
                raise ValueError(f"prompt of {length} tokens exceeds the {limit} of {self.name}: {text!r}")
        return tokenizer(list(texts))

    def text_features(self, model: nn.Module, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        """Return text embeddings of unit length."""
        clip: Any = model
        return clip.encode_text(tokens, normalize=True)

    def probe(self, model: nn.Module, *, batch: int, generator: torch.Generator) -> Callable[[], Tensor]:
        """Return a function that compares random images with random texts, both towers and the temperature included."""
        clip: Any = model
        device, size = model.get_parameter("logit_scale").device, self.image_size(model)
        images = torch.randn(batch, 3, size, size, generator=generator).to(device)
        # from 1: some vocabularies pad with 0, and one that leaves positions out would starve their embeddings
        shape = (batch, int(clip.context_length))
        tokens = torch.randint(1, int(clip.vocab_size), shape, generator=generator).to(device)

        def similarities() -> Tensor:
            return clip.logit_scale.exp() * self.image_features(model, images) @ self.text_features(model, tokens).T

        return similarities

    def recompute_blocks(self, model: nn.Module) -> None:
        """See :meth:`randlora.backbones.base.Backbone.recompute_blocks`."""
        clip: Any = model
        clip.set_grad_checkpointing(True)

    def with_random_weights(self) -> Self:
        """Return the backbone with neither checkpoint nor tag."""
        return replace(self, pretrained=None, checkpoint=None)

    def _tokenizer(self) -> Any:
        return _tokenizer_of(self.model)

    def _architecture(self) -> nn.Module:
        open_clip = _open_clip()
        config = open_clip.get_model_config(self.model)
        if config is None:
            raise ValueError(
                f"backbone {self.name}: open_clip has no architecture {self.model!r}; see open_clip.list_models()"
            )
        if config.get("custom_text"):
            raise ValueError(
                f"backbone {self.name}: {self.model!r} has a text tower of its own kind; only the standard CLIP "
                "of open_clip is supported, such as ViT-B-32, ViT-L-14 or ViT-H-14"
            )
        return open_clip.model.CLIP(**{k: v for k, v in config.items() if k != "preprocess_cfg"})

    def _load_tag(self, model: nn.Module) -> None:
        pretrained = _open_clip().pretrained
        config = pretrained.get_pretrained_cfg(self.model, self.pretrained)
        if not config:
            tags = ", ".join(pretrained.list_pretrained_tags_by_model(self.model)) or "none"
            raise WeightsError(
                f"backbone {self.name}: no weights tagged {self.pretrained!r} for {self.model}; there are: {tags}"
            )
        try:
            path = pretrained.download_pretrained(config)
        except Exception as error:
            raise not_downloaded(self.name, f"{self.model} / {self.pretrained}", error) from error
        _load_file(model, Path(path), name=self.name)


def _load_file(model: nn.Module, path: Path, *, name: str) -> None:
    from open_clip.factory import resize_pos_embed, resize_text_pos_embed

    try:
        state = {key: _in_float32(value) for key, value in _read(path).items() if key not in NO_WEIGHTS}
    except Exception as error:
        raise unreadable(name, path, error) from error
    try:
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
        model.load_state_dict(state)
    except (AssertionError, RuntimeError, KeyError, IndexError) as error:
        raise other_architecture(name, path, error) from error


def _read(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a weights file; OpenAI publishes TorchScript archives, everyone else plain tensors."""
    from open_clip.factory import load_state_dict

    if is_zipfile(path) and any(name.endswith("/constants.pkl") for name in ZipFile(path).namelist()):
        return torch.jit.load(str(path), map_location="cpu").state_dict()
    return load_state_dict(str(path), device="cpu")


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@cache
def _open_clip() -> ModuleType:
    import_torchvision()
    import open_clip
    import open_clip.constants
    import open_clip.model
    import open_clip.pretrained

    # open_clip reports every step of model creation through the root logger
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    open_clip.add_model_config(OWN_CONFIGS)
    return open_clip


@cache
def _tokenizer_of(model: str) -> Any:
    return _open_clip().get_tokenizer(model)
