"""Blocks that are run again in the backward pass give the same bits, in the real classes of the language models."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from configs import ADAPTER_METHODS, build
from tiny_models import fitted, perturb
from torch import Tensor

from randlora.backbones.language import LanguageModel

# narrow, but with the classes, the biases, the fused matrices and the grouped keys of the published ones
NARROW = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
OWN = {
    "qwen2_0_5b": {"num_key_value_heads": 2},
    "llama3_8b": {"num_key_value_heads": 2},
    "phi3_mini": {
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 64,
        "sliding_window": 40,
        "pad_token_id": 0,
    },
}


def narrow(name: str) -> LanguageModel:
    backbone = build("backbone", name).with_random_weights()
    architecture = {**backbone.architecture, **NARROW, **OWN[name]}
    return dataclasses.replace(backbone, architecture=architecture, dtype="bfloat16")


def gradients(
    backbone: LanguageModel, method: str, *, recompute: bool, dropout: float
) -> tuple[dict[str, Tensor], int]:
    """Return the gradient of each trained tensor, and how often the first block ran."""
    model = backbone.build(root=Path(), device=torch.device("cpu"), seed=4)
    if recompute:
        backbone.recompute_blocks(model)
    adaptation = fitted(ADAPTER_METHODS[method], 4).apply(model, backbone.targets_of(model), seed=1)
    perturb(adaptation, std=0.05)
    adaptation.drop_inputs(dropout)
    runs = []
    block = model.get_submodule("model.layers.0.input_layernorm")
    block.register_forward_hook(lambda *_: runs.append(1))
    tokens = torch.randint(1, 101, (3, 20), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(6)
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    return {name: parameter.grad for name, parameter in adaptation.trainable().items()}, len(runs)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("method", ["lora_llm", "dora", "randlora_llm"])
@pytest.mark.parametrize("name", OWN)
def test_gradients_are_the_same_bits(name: str, method: str, dropout: float) -> None:
    kept, once = gradients(narrow(name), method, recompute=False, dropout=dropout)
    again, twice = gradients(narrow(name), method, recompute=True, dropout=dropout)
    assert (once, twice) == (1, 2)
    assert kept.keys() == again.keys()
    for tensor, gradient in kept.items():
        assert gradient.count_nonzero() > 0, tensor
        assert torch.equal(gradient, again[tensor]), tensor
