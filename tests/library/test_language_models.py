"""Decoder language models through transformers: real classes, small shapes, weights that are missing or others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import build, names
from torch import nn
from torch.nn import functional as F

from randlora.backbones.errors import WeightsError
from randlora.backbones.language import LanguageModel
from randlora.sites import TargetError

CPU = torch.device("cpu")
# narrow, but with grouped keys and values and unequal sides as in the published shapes
SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MODELS = {name: one for name in names("backbone") if isinstance(one := build("backbone", name), LanguageModel)}
CLASSES = {"qwen2_0_5b": "Qwen2ForCausalLM", "phi3_mini": "Phi3ForCausalLM", "llama3_8b": "LlamaForCausalLM"}


def with_shape(backbone: LanguageModel, **fields: Any) -> LanguageModel:
    return dataclasses.replace(backbone, architecture={**backbone.architecture, **fields})


def small(name: str) -> LanguageModel:
    backbone = with_shape(MODELS[name].with_random_weights(), **SMALL)
    if name == "phi3_mini":
        return with_shape(backbone, original_max_position_embeddings=64, sliding_window=40, pad_token_id=0)
    return backbone


@pytest.fixture
def llama() -> LanguageModel:
    return small("llama3_8b")


@pytest.fixture
def saved(llama: LanguageModel, tmp_path: Path) -> LanguageModel:
    """A backbone whose weights lie in a folder as transformers saves them."""
    llama.build(root=Path(), device=CPU, seed=3).save_pretrained(tmp_path / "weights")
    return dataclasses.replace(llama, checkpoint="weights")


@pytest.mark.parametrize("name", CLASSES)
def test_the_published_models_are_of_the_real_class(name: str) -> None:
    skeleton = MODELS[name].skeleton()
    assert type(skeleton).__name__ == CLASSES[name]
    sites = MODELS[name].targets_of(skeleton).sites
    layers = MODELS[name].architecture["num_hidden_layers"]
    assert len(sites) == layers * (3 if name == "phi3_mini" else 5)
    assert not [site.name for site in sites if "o_proj" in site.name or "gate_proj" in site.name]


def test_tied_embeddings_are_one_parameter() -> None:
    names = [name for name, _ in MODELS["qwen2_0_5b"].skeleton().named_parameters()]
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert "lm_head.weight" in dict(MODELS["llama3_8b"].skeleton().named_parameters())


@pytest.mark.parametrize("name", CLASSES)
def test_a_small_one_trains_merges_and_keeps_its_outputs(name: str) -> None:
    backbone = small(name)
    model = backbone.build(root=Path(), device=CPU, seed=4)
    method = dataclasses.replace(build("method", "randlora_llm"), rank=5)
    targets = backbone.targets_of(model)
    adaptation = method.apply(model, targets, seed=1)
    assert adaptation.n_trainable() == method.count(targets)
    optimizer = torch.optim.AdamW(adaptation.trainable().values(), lr=3e-2, weight_decay=0.0)
    tokens = torch.randint(1, 101, (3, 20), generator=torch.Generator().manual_seed(5))
    losses = []
    for _ in range(6):
        logits = model(input_ids=tokens).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    with torch.no_grad():
        before = model.eval()(input_ids=tokens).logits
        after = adaptation.merge()(input_ids=tokens).logits
    assert torch.allclose(before, after, atol=1e-5)
    assert set(model.state_dict()) == set(backbone.skeleton().state_dict())


def test_one_real_layer_of_qwen2_takes_a_step() -> None:
    backbone = with_shape(MODELS["qwen2_0_5b"].with_random_weights(), num_hidden_layers=1, vocab_size=211)
    model = backbone.build(root=Path(), device=CPU, seed=4)
    adaptation = build("method", "lora").apply(model, backbone.targets_of(model), seed=1)
    backbone.probe(model, batch=2, generator=torch.Generator().manual_seed(5))().square().mean().backward()
    moved = [name for name, parameter in adaptation.trainable().items() if parameter.grad.count_nonzero()]
    assert len(moved) == 5  # B of each site; A has no gradient while B is zero


def test_a_random_start_follows_its_seed_and_no_other(llama: LanguageModel) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = llama.build(root=Path(), device=CPU, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (llama.build(root=Path(), device=CPU, seed=seed) for seed in (4, 5))
    assert all(torch.equal(left, right) for left, right in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert llama.weights_digest(root=Path()) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_that_of_the_config(
    dtype: Any, llama: LanguageModel, saved: LanguageModel, tmp_path: Path
) -> None:
    for backbone in (llama, saved):
        model = dataclasses.replace(backbone, dtype=dtype).build(root=tmp_path, device=CPU)
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_folder_loads_as_it_was_saved(llama: LanguageModel, saved: LanguageModel, tmp_path: Path) -> None:
    first = llama.build(root=Path(), device=CPU, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    loaded = saved.build(root=tmp_path, device=CPU, seed=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(loaded.named_parameters()).keys() == dict(first.named_parameters()).keys()
    assert all(torch.equal(left, right) for left, right in zip(first.parameters(), loaded.parameters(), strict=True))
    digest = saved.weights_digest(root=tmp_path)
    assert digest is not None
    llama.build(root=Path(), device=CPU, seed=9).save_pretrained(tmp_path / "weights")
    assert saved.weights_digest(root=tmp_path) != digest


def test_a_missing_folder_says_what_is_needed(saved: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "weights" / "model.safetensors").unlink()
    for backbone in (saved, dataclasses.replace(saved, checkpoint="none")):
        for act in (backbone.build, backbone.weights_digest):
            with pytest.raises(WeightsError, match=r"no weights at .*, which needs config.json and \*.safetensors"):
                act(root=tmp_path, **({"device": CPU} if act == backbone.build else {}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 3}, "has num_hidden_layers = 2, its configuration here says 3"),
        ({"vocab_size": 100}, "has vocab_size = 101, its configuration here says 100"),
        ({"tie_word_embeddings": True}, "has tie_word_embeddings = False, its configuration here says True"),
        ({"rope_theta": 10_000.0}, "has rope_parameters = .*500000.*, its configuration here says .*10000"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    fields: dict[str, Any], words: str, saved: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=f"weights {words}"):
        with_shape(saved, **fields).build(root=tmp_path, device=CPU)


@pytest.mark.parametrize("keep", [0, 9, -100])
def test_a_truncated_file_is_named(keep: int, saved: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"weights cannot be read as weights \(.*\); fetch it again"):
        saved.build(root=tmp_path, device=CPU)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_tensors_that_do_not_fit_are_named(change: str, saved: LanguageModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "weights" / "model.safetensors"
    tensors, name = load_file(path), "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del tensors[name]
    elif change == "unexpected":
        name = "model.layers.2.mlp.up_proj.weight"
        tensors[name] = torch.zeros(2)
    else:
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"weights (holds weights of another arch.*up_proj|cannot be read)"):
        saved.build(root=tmp_path, device=CPU)


def test_without_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone = dataclasses.replace(MODELS["llama3_8b"], hub_id="nobody/has-this")
    with pytest.raises(WeightsError) as caught:
        backbone.build(root=tmp_path, device=CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert "backbone llama3_8b: the weights nobody/has-this are not on this machine" in message
    assert "backbone.checkpoint=/path/to/folder" in message
    assert backbone.weights_digest(root=tmp_path) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layer": 2}, "'llama' has no field 'num_hidden_layer' in its .*; nearest: num_hidden_layers"),
        ({"model_type": "lama"}, "transformers has no model_type 'lama'"),
        ({"num_hidden_layers": "many"}, "no 'llama' has this architecture: "),
        ({"hidden_size": 33}, "no 'llama' has this architecture: "),
    ],
)  # fmt: skip
def test_an_architecture_that_cannot_be_is_named(fields: dict[str, Any], words: str, llama: LanguageModel) -> None:
    with pytest.raises(ValueError, match=f"backbone llama3_8b: {words}"):
        with_shape(llama, **fields).skeleton()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architecture": None}, "valid: fields of the model's config.json"),
        ({"architecture": {"hidden_size": 4}}, "model_type among them"),
        ({"dtype": "int8"}, "LanguageModel.dtype = 'int8'; valid: 'float32', 'bfloat16', 'float16'"),
        ({"hub_id": 3}, "LanguageModel.hub_id = 3; valid: a string, or null"),
    ],
)
def test_fields_of_the_wrong_kind_are_named(fields: dict[str, Any], words: str, llama: LanguageModel) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(llama, **fields)


def test_fused_projections_are_no_q_proj() -> None:
    backbone = dataclasses.replace(MODELS["phi3_mini"], targets=["q_proj.weight"])
    with pytest.raises(TargetError, match=r"'q_proj.weight' matched none of the .* weights of phi3_mini; nearest"):
        backbone.targets_of(backbone.skeleton())


def test_equal_configs_are_one_key(llama: LanguageModel) -> None:
    assert hash(llama) == hash(small("llama3_8b"))
    assert llama == small("llama3_8b") != with_shape(llama, num_hidden_layers=1)


def test_the_probe_reaches_every_parameter(llama: LanguageModel) -> None:
    model: nn.Module = llama.build(root=Path(), device=CPU, seed=1)
    llama.probe(model, batch=40, generator=torch.Generator().manual_seed(1))().square().mean().backward()
    assert all(parameter.grad.count_nonzero() for parameter in model.parameters())
