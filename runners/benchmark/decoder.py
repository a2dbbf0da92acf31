"""Decoder layers of language models as workloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from randlora.adapter import Targets
from randlora.checks import check_flag, check_whole
from randlora.sites import find_sites
from runners.benchmark.cases import Case, Workload, check_whole_list, generator, weigh

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DecoderLayers(Workload):
    """The layers of a transformers model as they stand inside a deep one: gradients flow on to their input.

    Attributes:
        model: fields of the transformers config, ``model_type`` among them.
        tokens: tokens per step, one case each.
        sequence: tokens per sequence; each number of tokens is a multiple of it.
        checkpointing: keep the input of each layer alone and compute it again in the backward pass.
        sites: patterns of the adapted weights.
        scope: globs of what full fine-tuning trains.
    """

    model: Mapping[str, Any]
    tokens: Sequence[int]
    sequence: int
    checkpointing: bool
    sites: Sequence[str]
    scope: Sequence[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "sequence")
        check_flag(self, "checkpointing")
        check_whole_list(self, "tokens")
        for tokens in self.tokens:
            if tokens % self.sequence:
                raise ValueError(f"DecoderLayers: {tokens} tokens are no whole number of sequences of {self.sequence}")
        if "model_type" not in self.model:
            raise ValueError("DecoderLayers.model lacks model_type, the kind of transformers model, such as llama")

    def cases(self) -> Sequence[Case]:
        """Return one case per number of tokens."""
        return tuple(
            DecoderCase(name=f"{tokens:,} tokens", precision=self.precision, tokens=tokens, workload=self)
            for tokens in self.tokens
        )


@dataclass(frozen=True, kw_only=True)
class DecoderCase(Case):
    """A :class:`DecoderLayers` workload at one number of tokens."""

    workload: DecoderLayers

    def build(self, *, device: torch.device, seed: int) -> nn.Module:
        """Return the model, from its transformers class."""
        from randlora.backbones.torchvision_guard import import_torchvision

        import_torchvision()  # transformers imports it
        from transformers import AutoConfig, AutoModel

        fields = dict(self.workload.model)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = AutoModel.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
        if self.workload.checkpointing:
            # the name of newer transformers, then the older one
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        return model.to(device=device, dtype=self.dtype)

    def targets(self, model: nn.Module) -> Targets:
        """Return the sites and the scope."""
        work = self.workload
        parameters = {
            name: parameter.numel()
            for name, parameter in model.named_parameters()
            if any(fnmatchcase(name, pattern) for pattern in work.scope)
        }
        return Targets(
            sites=find_sites(model, tuple(work.sites), model_name=work.model["model_type"]), parameters=parameters
        )

    def inputs(self, model: nn.Module, *, device: torch.device, seed: int) -> Mapping[str, Tensor]:
        """Return embedded tokens that require a gradient, and the gradient that comes down on the output."""
        assert self.tokens is not None
        source = generator(seed)
        shape = (self.tokens // self.workload.sequence, self.workload.sequence, self.workload.model["hidden_size"])
        embedded = torch.randn(shape, generator=source).to(device=device, dtype=self.dtype)
        direction = torch.randn(shape, generator=source).to(device=device, dtype=self.dtype) / self.tokens
        return {"embedded": embedded.requires_grad_(), "direction": direction}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the weighed last hidden state."""
        outputs = model(inputs_embeds=inputs["embedded"], use_cache=False)
        return weigh(outputs.last_hidden_state, inputs["direction"])
