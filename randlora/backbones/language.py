"""Decoder language models through transformers: published ones by hub id or folder, small ones from their shapes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from randlora.backbones.base import LanguageBackbone
from randlora.backbones.errors import WeightsError, other_architecture, unreadable
from randlora.backbones.files import digest, in_hub_cache
from randlora.backbones.quantised import QUANTIZE, Quantize, keep_packed_as_loaded, quantised_loading
from randlora.backbones.random_start import own_stream
from randlora.backbones.torchvision_guard import import_torchvision
from randlora.checks import check_choice, check_text
from randlora.packed import check_packed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from randlora.adapter import Method

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: Mapping[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
PROBE_TOKENS = 16
WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, kw_only=True)
class LanguageModel(LanguageBackbone):
    """A causal language model.

    Attributes:
        architecture: fields of the published ``config.json`` that decide shapes and values, ``model_type`` included;
            weights are refused where theirs differ. Fields left out keep the default of transformers.
        hub_id: where the weights are published, such as ``Qwen/Qwen2-0.5B-Instruct``; downloaded on first use.
        revision: commit of the hub repository, or None for its newest.
        checkpoint: folder with ``config.json`` and weights as transformers saves them, relative to the suite's root;
            takes the place of the hub. With neither, the model starts at random from the run's seed.
        dtype: of the weights once loaded.
        quantize: ``8bit`` or ``4bit`` packs the weights of linear layers but the last as they are loaded, see
            :func:`randlora.backbones.quantised.quantised_loading`; None leaves them in ``dtype``.
    """

    architecture: Mapping[str, Any] = field(hash=False)
    hub_id: str | None
    revision: str | None
    checkpoint: str | None
    dtype: Dtype
    quantize: Quantize | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "hub_id", "revision", "checkpoint", optional=True)
        check_choice(self, "dtype", tuple(DTYPES))
        check_choice(self, "quantize", (None, *QUANTIZE))
        if self.quantize is not None and self.checkpoint is None and self.hub_id is None:
            raise ValueError(
                f"backbone {self.name}: quantize={self.quantize} packs weights that are loaded, and a random start has "
                "none: name a checkpoint, or set backbone.quantize=null"
            )
        if not isinstance(self.architecture, Mapping) or not isinstance(self.architecture.get("model_type"), str):
            raise ValueError(
                f"backbone {self.name}: architecture = {self.architecture!r}; "
                "valid: fields of the model's config.json, model_type among them"
            )

    def skeleton(self) -> nn.Module:
        """Return the model on the meta device, its weights in ``dtype``."""
        config = self._config()
        with torch.device("meta"):
            return _transformers().AutoModelForCausalLM.from_config(config, dtype=DTYPES[self.dtype])

    @property
    def like_blocks(self) -> int | None:
        """See :class:`randlora.backbones.base.LanguageBackbone`."""
        config = self._config()
        kinds = getattr(config, "layer_types", None) or []
        return config.num_hidden_layers if len(set(kinds)) <= 1 else None

    def with_blocks(self, count: int) -> Self:
        """See :class:`randlora.backbones.base.LanguageBackbone`."""
        return replace(self.with_random_weights(), architecture={**self.architecture, "num_hidden_layers": count})

    @property
    def packed(self) -> bool:
        """See :class:`randlora.backbones.base.LanguageBackbone`."""
        return self.quantize is not None

    def build(self, *, root: Path, device: torch.device, seed: int = 0) -> nn.Module:
        """Return the model in evaluation-ready form with its weights in ``dtype``."""
        folder = self._folder(root)
        with own_stream(seed):
            if folder is not None:
                model = self._load(str(folder), revision=None, device=device)
            elif self.hub_id is not None:
                model = self._load(self.hub_id, revision=self.revision, device=device)
            else:
                model = _transformers().AutoModelForCausalLM.from_config(self._config(), dtype=DTYPES[self.dtype])
        return model.to(device)

    def check_method(self, method: Method) -> None:
        """Raise ValueError where the weights are quantised and the method needs them in floating point."""
        if self.quantize is not None:
            check_packed(method, f"backbone {self.name}")

    def weights_digest(self, *, root: Path) -> str | None:
        """Return the SHA-256 of the weight files of the checkpoint, None for the hub or a random start."""
        folder = self._folder(root)
        if folder is None:
            return None
        return digest(sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)))

    def missing_weights(self, *, root: Path) -> str | None:
        """Return the folder or hub id where its weights are neither given nor in the cache of the hub."""
        if self.checkpoint is not None:
            folder = (root / self.checkpoint).expanduser()
            found = any(path for pattern in WEIGHTS for path in folder.glob(pattern))
            return None if found else f"no weights in {folder}"
        if self.hub_id is None or in_hub_cache(self.hub_id, revision=self.revision):
            return None
        return f"{self.hub_id} of the Hugging Face hub"

    def probe(self, model: nn.Module, *, batch: int, generator: torch.Generator) -> Callable[[], Tensor]:
        """Return a function that computes the next-token scores of random texts of 16 tokens."""
        language: Any = model
        vocabulary = self.architecture.get("vocab_size") or language.config.vocab_size
        tokens = torch.randint(vocabulary, (batch, PROBE_TOKENS), generator=generator)
        tokens = tokens.to(next(model.parameters()).device)
        return lambda: language(input_ids=tokens).logits

    def recompute_blocks(self, model: nn.Module) -> None:
        """See :meth:`randlora.backbones.base.Backbone.recompute_blocks`."""
        language: Any = model
        language.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def tokenizer(self, *, root: Path) -> PreTrainedTokenizerBase:
        """Return the tokenizer that belongs to the weights; it pads on the left.

        One without a padding token pads with token 0, as the released scripts do; padding is always masked.

        Raises:
            WeightsError: if there is none, or no weights it could belong to.
        """
        folder = self._folder(root)
        source = self.hub_id if folder is None else str(folder)
        if source is None:
            raise WeightsError(
                f"backbone {self.name} has random weights and no tokenizer; give the folder of a model that has both: "
                "backbone.checkpoint=PATH"
            )
        try:
            found = _transformers().AutoTokenizer.from_pretrained(
                source, revision=self.revision if folder is None else None, padding_side="left"
            )
        except Exception as error:
            if folder is None:
                raise self._unavailable(source, error) from error
            raise WeightsError(
                f"backbone {self.name}: {folder} has no tokenizer that can be read; copy the tokenizer files of the "
                "model there (tokenizer.json, tokenizer_config.json)"
            ) from error
        if found.pad_token_id is None:
            found.pad_token = found.convert_ids_to_tokens(0)
        return found

    def with_random_weights(self) -> Self:
        """Return the backbone with neither hub nor checkpoint, in floating point."""
        return replace(self, hub_id=None, revision=None, checkpoint=None, quantize=None)

    def _config(self) -> Any:
        auto = _transformers().AutoConfig
        model_type = self.architecture["model_type"]
        fields = {name: value for name, value in self.architecture.items() if name != "model_type"}
        try:
            known = auto.for_model(model_type).to_dict()
        except ValueError as error:
            raise ValueError(f"backbone {self.name}: transformers has no model_type {model_type!r}") from error
        for name in fields:
            if name not in known and not name.startswith("rope_"):
                near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:5]
                raise ValueError(
                    f"backbone {self.name}: {model_type!r} has no field {name!r} in its architecture; "
                    f"nearest: {', '.join(near)}"
                )
        try:
            return auto.for_model(model_type, **fields)
        except Exception as error:
            raise ValueError(f"backbone {self.name}: no {model_type!r} has this architecture: {error}") from error

    def _folder(self, root: Path) -> Path | None:
        if self.checkpoint is None:
            return None
        folder = (root / self.checkpoint).expanduser()
        if not (folder / "config.json").is_file() or not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
            raise WeightsError(
                f"backbone {self.name}: no weights at {folder}, which needs config.json and *.safetensors as "
                "transformers saves them; give another folder with backbone.checkpoint=PATH, or take the hub's with "
                "backbone.checkpoint=null"
            )
        return folder

    def _load(self, source: str, *, revision: str | None, device: torch.device) -> nn.Module:
        library, dtype = _transformers(), DTYPES[self.dtype]
        packing: dict[str, Any] = {}
        if self.quantize is not None:
            packing = quantised_loading(self.quantize, name=self.name, dtype=dtype, device=device)
        try:
            found = library.AutoConfig.from_pretrained(source, revision=revision)
            self._check(found, source)
            model, report = library.AutoModelForCausalLM.from_pretrained(
                source, revision=revision, config=found, dtype=dtype, output_loading_info=True, **packing
            )
        except WeightsError:
            raise
        except Exception as error:
            raise self._unavailable(source, error) from error
        wrong = [f"{kind.partition('_')[0]} {sorted(map(str, names))[0]}" for kind, names in report.items() if names]
        if wrong:
            raise other_architecture(self.name, source, wrong[0])
        if packing:
            keep_packed_as_loaded(model)
        return model

    def _check(self, found: Any, source: str) -> None:
        """Raise WeightsError where the weights' config differs from the stated architecture."""
        stated, theirs = self._config().to_dict(), found.to_dict()
        names = [name for name in self.architecture if name in stated]
        names += ["rope_parameters"] if any(name.startswith("rope_") for name in self.architecture) else []
        for name in names:
            if stated[name] != theirs.get(name):
                raise WeightsError(
                    f"backbone {self.name}: {source} has {name} = {theirs.get(name)!r}, "
                    f"its configuration here says {stated[name]!r}"
                )

    def _unavailable(self, source: str, error: Exception) -> WeightsError:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if self.checkpoint is not None:
            return unreadable(self.name, source, reason)
        return WeightsError(
            f"backbone {self.name}: the weights {source} are not on this machine and could not be downloaded "
            f"({reason}). With a network, run the same command again (a gated model needs its licence accepted on the "
            "hub and 'hf auth login'); without, copy the folder from another machine: "
            "backbone.checkpoint=/path/to/folder"
        )


@cache
def _transformers() -> ModuleType:
    import_torchvision()  # transformers imports it for parts that language models do not use
    import transformers

    return transformers
