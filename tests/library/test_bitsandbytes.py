"""The embedded language model in 8 and 4 bits through bitsandbytes, and what is said where that is missing."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS, ROOT, build
from tiny_models import fitted, perturb
from torch import Tensor, nn
from torch.nn import functional as F

from randlora.backbones.errors import WeightsError
from randlora.backbones.language import LanguageModel
from randlora.inject import fingerprint
from randlora.packed import unpacked
from randlora.storage import load_adapter, save_adapter

CPU = torch.device("cpu")
QUANTIZE = ("8bit", "4bit")
# how far a number may be off, as a share of the largest entry: half a step of 127 after rounding to float16, half the
# widest gap of nf4
ROUNDING = {"8bit": 0.5 / 127 + 2**-10, "4bit": 0.16}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra 'quantized' is not installed"
)


def embedded(quantize: str | None) -> LanguageModel:
    return dataclasses.replace(build("backbone", "stories260k"), quantize=quantize)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(1, 512, (3, 24), generator=torch.Generator().manual_seed(5))


def built(quantize: str | None) -> nn.Module:
    return embedded(quantize).build(root=ROOT, device=CPU).eval()


@needs_bitsandbytes
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_the_weights_are_packed_and_stand_for_nearly_the_same_numbers(quantize: str) -> None:
    model, plain = built(quantize), built(None)
    sites = embedded(quantize).targets_of(model).sites
    assert sites == embedded(None).targets_of(plain).sites
    for site in sites:
        weight, original = model.get_parameter(site.name), plain.get_parameter(site.name)
        assert weight.dtype in (torch.int8, torch.uint8)
        found = unpacked(model.get_submodule(site.name.removesuffix(".weight")), weight)
        assert found.shape == (site.out_features, site.in_features)
        bound = ROUNDING[quantize] * original.abs().max()
        assert (found - original).abs().max() <= bound * 1.001
        assert not torch.equal(found, original)
    assert model.get_parameter("model.embed_tokens.weight").dtype == torch.float32


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["lora_llm", "dora", "vera_llm", "nola_randlora_llm", "randlora_llm"])
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_adapters_train_beside_them_and_come_back(quantize: str, name: str, tokens: Tensor, tmp_path: Path) -> None:
    model = built(quantize)
    with torch.no_grad():
        base = model(input_ids=tokens).logits
    targets = embedded(quantize).targets_of(model)
    method = fitted(ADAPTER_METHODS[name], 4)
    adaptation = method.apply(model, targets, seed=1)
    assert adaptation.n_trainable() == method.count(targets)
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens).logits, base) == method.starts_at_base
    before = fingerprint(adaptation.frozen())
    optimizer = torch.optim.AdamW(adaptation.trainable().values(), lr=3e-2, weight_decay=0.0)
    losses = []
    for _ in range(5):
        logits = model.train()(input_ids=tokens).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    save_adapter(tmp_path / "adapter.safetensors", adaptation)
    with torch.no_grad():
        expected = adaptation.merge().eval()(input_ids=tokens).logits
    assert not torch.allclose(expected, base, atol=1e-2)
    assert fingerprint(adaptation.frozen()) == before
    again, _ = load_adapter(tmp_path / "adapter.safetensors", built(quantize))
    with torch.no_grad():
        assert torch.equal(again.model(input_ids=tokens).logits, expected)


@needs_bitsandbytes
def test_four_bits_compute_what_the_numbers_that_they_stand_for_do(tokens: Tensor) -> None:
    model, plain = built("4bit"), built(None)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and not layer.weight.dtype.is_floating_point:
                plain.get_parameter(f"{name}.weight").copy_(unpacked(layer, layer.weight))
        outputs = []
        for one in (model, plain):
            method = fitted(ADAPTER_METHODS["dora"], 4)
            adaptation = method.apply(one, embedded(None).targets_of(one), seed=1)
            perturb(adaptation, std=0.1)
            outputs.append(one(input_ids=tokens).logits)
    assert torch.allclose(outputs[0], outputs[1], atol=1e-3)


@needs_bitsandbytes
def test_evaluation_on_a_cpu_leaves_the_numbers_of_four_bits_alone(tokens: Tensor) -> None:
    model = built("4bit")
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    before = unpacked(layer, layer.weight)
    with torch.no_grad():
        evaluated = model.eval()(input_ids=tokens).logits
        trained = model.train()(input_ids=tokens).logits
    assert torch.equal(unpacked(layer, layer.weight), before)
    assert torch.allclose(evaluated, trained, atol=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_blocks_are_recomputed_with_the_same_gradients(quantize: str, tokens: Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        backbone, model = embedded(quantize), built(quantize)
        if recompute:
            backbone.recompute_blocks(model)
        adaptation = fitted(ADAPTER_METHODS["randlora_llm"], 4).apply(model, backbone.targets_of(model), seed=1)
        model.train()(input_ids=tokens).logits.square().mean().backward()
        gradients.append({key: one.grad for key, one in adaptation.trainable().items()})
    assert all(torch.equal(one, gradients[1][key]) for key, one in gradients[0].items())


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_a_missing_package_is_named_with_the_way_to_get_it(quantize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else real(name, *a)
    )
    with pytest.raises(WeightsError) as caught:
        embedded(quantize).build(root=ROOT, device=CPU)
    assert str(caught.value) == (
        f"backbone stories260k: quantize={quantize} needs the package bitsandbytes, which is not installed: "
        "pip install 'randlora[quantized]', or use weights in floating point: backbone.quantize=null"
    )


@pytest.mark.parametrize("devices", [{"cuda"}, None])
def test_a_version_that_needs_cuda_says_so(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("bitsandbytes")
    old.__spec__, old.__version__ = ModuleSpec("bitsandbytes", None), "0.44.1"
    if devices is not None:
        old.supported_torch_devices = devices
    monkeypatch.setitem(sys.modules, "bitsandbytes", old)
    with pytest.raises(WeightsError, match=r"bitsandbytes 0.44.1 runs on cuda and not on cpu: .*quantize=null$"):
        embedded("4bit").build(root=ROOT, device=CPU)


def test_a_package_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bitsandbytes.py").write_text("raise RuntimeError('no kernel image\\nfor this card')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    with pytest.raises(WeightsError, match=r"cannot be loaded \(RuntimeError: no kernel image\): pip install [^\n]*$"):
        embedded("8bit").build(root=ROOT, device=CPU)


def test_a_random_start_has_nothing_to_pack() -> None:
    with pytest.raises(ValueError, match=r"stories260k: quantize=4bit packs .* checkpoint, or set .*quantize=null"):
        dataclasses.replace(embedded("4bit"), checkpoint=None)
    assert embedded("4bit").with_random_weights().quantize is None


def test_what_needs_the_weights_is_refused_before_they_are_loaded() -> None:
    backbone = embedded("8bit")
    for name, words in {
        "full_ft": "FullFineTuning trains the weights themselves",
        "peft": "layers of Peft are not tested on that",
    }.items():
        with pytest.raises(ValueError, match=f"backbone stories260k is quantised, and {words}.*quantize=null"):
            backbone.check_method(METHODS[name])
        embedded(None).check_method(METHODS[name])
    weight_form = dataclasses.replace(ADAPTER_METHODS["lora"], contraction="weight")
    with pytest.raises(ValueError, match=r"stories260k is quantised and cannot .*set method.contraction=auto"):
        backbone.check_method(weight_form)
    for name in ("zero_shot", "dora", "lora", "randlora"):
        backbone.check_method(METHODS[name])


def test_other_widths_are_named() -> None:
    with pytest.raises(ValueError, match=r"LanguageModel.quantize = '3bit'; valid: None, '8bit', '4bit'"):
        embedded("3bit")
