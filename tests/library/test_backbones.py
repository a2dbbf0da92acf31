"""Every backbone's config; CLIP through open_clip: shapes, weights that are missing or broken, and the tokenizer."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from configs import ROOT, build, names
from safetensors.torch import save_file
from torch import nn

from randlora.backbones.base import ImageBackbone
from randlora.backbones.clip import OpenClip
from randlora.backbones.errors import WeightsError
from randlora.sites import TargetError

CPU = torch.device("cpu")


@pytest.fixture
def weights(micro_model: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.half().contiguous() for name, tensor in micro_model.state_dict().items()}, path)
    return path


def at(backbone: OpenClip, path: Path | str) -> OpenClip:
    return dataclasses.replace(backbone, checkpoint=str(path))


def test_the_embedded_clip_has_its_size(micro: OpenClip) -> None:
    skeleton = micro.skeleton()
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    assert sum(parameter.numel() for parameter in skeleton.parameters()) == 5_990_785
    targets = micro.targets_of(skeleton)
    assert len(targets.sites) == 24
    assert sum(targets.parameters.values()) == 5_990_785
    assert {(site.out_features, site.in_features) for site in targets.sites} == {
        (576, 192), (768, 192), (192, 768), (192, 64), (64, 192),
    }  # fmt: skip
    assert micro.image_size(skeleton) == 32
    assert micro.feature_size(skeleton) == 128


def test_the_image_tower_alone_has_its_sites(micro: OpenClip) -> None:
    backbone = build("backbone", "micro_clip_vision")
    targets = backbone.targets_of(backbone.skeleton())
    assert len(targets.sites) == 18
    assert all(name.startswith("visual.") for name in [*targets.parameters, *(site.name for site in targets.sites)])


@pytest.mark.parametrize("name", names("backbone"))
def test_every_backbone_config_has_targets_and_scope(name: str) -> None:
    backbone = build("backbone", name)
    assert backbone.name == name
    skeleton = backbone.skeleton()
    targets = backbone.targets_of(skeleton)
    assert targets.sites
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    shapes = {key: tuple(parameter.shape) for key, parameter in skeleton.named_parameters()}
    for site in targets.sites:
        assert shapes[site.name] == (site.out_features, site.in_features)
        assert site.name in targets.parameters
    if isinstance(backbone, ImageBackbone):
        mean, std = backbone.image_statistics(skeleton)
        assert len(mean) == len(std) == 3


@pytest.mark.parametrize("name", [name for name in names("backbone") if name.endswith("_vision")])
def test_vision_variants_leave_the_text_tower_alone(name: str) -> None:
    both, vision = build("backbone", name.removesuffix("_vision")), build("backbone", name)
    assert (vision.model, vision.pretrained, vision.checkpoint) == (both.model, both.pretrained, both.checkpoint)
    skeleton = both.skeleton()
    whole, part = both.targets_of(skeleton), vision.targets_of(skeleton)
    assert part.sites == tuple(site for site in whole.sites if site.name.startswith("visual."))
    assert part.parameters == {n: size for n, size in whole.parameters.items() if n.startswith("visual.")}


def test_a_random_start_follows_its_seed_and_no_other(micro: OpenClip) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = micro.build(root=Path(), device=CPU, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (micro.build(root=Path(), device=CPU, seed=seed) for seed in (4, 5))
    assert all(torch.equal(left, right) for left, right in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.visual.conv1.weight, other.visual.conv1.weight)
    assert micro.weights_digest(root=Path()) is None


def test_features_have_unit_length(micro: OpenClip, micro_model: nn.Module) -> None:
    with torch.no_grad():
        images = micro.image_features(micro_model, torch.randn(3, 3, 32, 32))
        texts = micro.text_features(micro_model, micro.tokenize(["a cat", "a dog"]))
    assert images.shape == (3, 128)
    assert texts.shape == (2, 128)
    assert torch.allclose(torch.cat([images, texts]).norm(dim=1), torch.ones(5), atol=1e-6)


def test_half_precision_weights_load_in_float32(micro: OpenClip, micro_model: nn.Module, weights: Path) -> None:
    relative = at(micro, weights.name)
    model = relative.build(root=weights.parent, device=CPU)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, micro_model.get_parameter(name).half().float())
    digest = relative.weights_digest(root=weights.parent)
    assert digest is not None
    assert len(digest) == 64


class Holder(nn.Module):
    """Tensors under the names of a state dict, in modules that can be scripted."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = tensor
            else:
                self.register_buffer(name, tensor)
        for name, part in inner.items():
            self.add_module(name, Holder(part))

    def forward(self) -> int:
        return 0


def test_openai_s_archives_load(micro: OpenClip, micro_model: nn.Module, tmp_path: Path) -> None:
    """OpenAI publishes TorchScript archives in half precision that also hold three plain numbers."""
    state = {name: tensor.half() for name, tensor in micro_model.state_dict().items()}
    for name, number in (("input_resolution", 32), ("context_length", 32), ("vocab_size", 49408)):
        state[name] = torch.tensor(number)
    path = tmp_path / "archive.pt"
    torch.jit.save(torch.jit.script(Holder(state)), str(path))
    loaded = at(micro, path).build(root=Path(), device=CPU)
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, micro_model.get_parameter(name).half().float())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        at(micro, path).build(root=Path(), device=CPU)


def test_a_pickled_state_dict_loads(micro: OpenClip, micro_model: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in micro_model.state_dict().items()}}, tmp_path / "w.pt")
    loaded = at(micro, tmp_path / "w.pt").build(root=Path(), device=CPU)
    assert torch.equal(loaded.logit_scale, micro_model.logit_scale)


def test_missing_weights_say_how_to_get_them(micro: OpenClip, tmp_path: Path) -> None:
    backbone = at(micro, "assets/none.safetensors")
    for act in (lambda: backbone.build(root=tmp_path, device=CPU), lambda: backbone.weights_digest(root=tmp_path)):
        with pytest.raises(
            WeightsError, match=r"no weights at .*none.safetensors; give another file with backbone.checkp"
        ):
            act()


@pytest.mark.parametrize("keep", [0, 5, 10_000, -1])
def test_truncated_weights_are_named(keep: int, micro: OpenClip, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"weights.safetensors cannot be read as weights .*; fetch it again"):
        at(micro, weights).build(root=Path(), device=CPU)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2]], ids=str)
def test_a_file_without_weights_is_named(content: object, micro: OpenClip, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w.pt cannot be read as weights"):
        at(micro, tmp_path / "w.pt").build(root=Path(), device=CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"visual.conv1.weight": torch.zeros(192, 3, 4, 4)},
        {"positional_embedding": torch.zeros(32, 96)},
        {"positional_embedding": torch.zeros(3)},
        {"visual.positional_embedding": torch.zeros(17, 99)},
        {"visual.positional_embedding": torch.zeros(12, 192)},
        {"text_projection": None},
        {"extra.weight": torch.zeros(2)},
    ],
    ids=lambda change: " ".join(f"{k} {None if v is None else list(v.shape)}" for k, v in change.items()),
)
def test_weights_of_another_architecture_are_named(
    change: dict[str, torch.Tensor | None], micro: OpenClip, micro_model: nn.Module, tmp_path: Path
) -> None:
    state = {**micro_model.state_dict(), **change}
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items() if tensor is not None}, tmp_path / "w.safetensors"
    )
    with pytest.raises(WeightsError, match=r"w.safetensors holds weights of another architecture: "):
        at(micro, tmp_path / "w.safetensors").build(root=Path(), device=CPU)


def test_an_unknown_tag_lists_the_tags(micro: OpenClip) -> None:
    backbone = dataclasses.replace(build("backbone", "clip_vit_b32"), pretrained="openal")
    with pytest.raises(WeightsError, match=r"no weights tagged 'openal' for ViT-B-32-quickgelu; there are: .*openai"):
        backbone._load_tag(nn.Identity())
    with pytest.raises(WeightsError, match="there are: none"):
        dataclasses.replace(micro, pretrained="openai").build(root=Path(), device=CPU)


def test_a_text_tower_of_another_kind_is_refused(micro: OpenClip) -> None:
    with pytest.raises(ValueError, match="'ViT-B-16-SigLIP' has a text tower of its own kind"):
        dataclasses.replace(micro, model="ViT-B-16-SigLIP").skeleton()


def test_an_unknown_architecture_is_named(micro: OpenClip) -> None:
    with pytest.raises(ValueError, match="open_clip has no architecture 'ViT-B-33'"):
        dataclasses.replace(micro, model="ViT-B-33").skeleton()


OFFLINE = """
from pathlib import Path
from torch import nn
from configs import build
from randlora.backbones.errors import WeightsError
try:
    build("backbone", "clip_vit_b32")._load_tag(nn.Identity())
except WeightsError as error:
    print(error)
"""


def test_weights_that_cannot_be_downloaded_say_what_to_do(tmp_path: Path) -> None:
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, env={**os.environ, **offline}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "backbone clip_vit_b32: the weights ViT-B-32-quickgelu / openai are not on this machine" in done.stdout
    assert "backbone.pretrained=null backbone.checkpoint=/path/to/weights" in done.stdout


def test_patterns_that_match_nothing_are_errors(micro: OpenClip) -> None:
    skeleton = micro.skeleton()
    with pytest.raises(TargetError, match=r"target 'q_proj' matched none of the \d+ weights of micro_clip; nearest: "):
        dataclasses.replace(micro, targets=["q_proj"]).targets_of(skeleton)
    with pytest.raises(TargetError, match=r"scope 'vision.*' matched none of the \d+ parameters of micro_clip"):
        dataclasses.replace(micro, scope=["visual.*", "vision.*"]).targets_of(skeleton)


@pytest.mark.parametrize("field", ["targets", "scope"])
@pytest.mark.parametrize("value", ["attn.in_proj_weight", [1]])
def test_patterns_come_as_a_list(field: str, value: object, micro: OpenClip) -> None:
    with pytest.raises(ValueError, match=rf"backbone micro_clip: {field} = .*; valid: a list of patterns"):
        dataclasses.replace(micro, **{field: value})


def test_a_prompt_that_does_not_fit_is_refused(micro: OpenClip) -> None:
    assert micro.tokenize(["a cat " * 15]).shape == (1, 32)
    with pytest.raises(ValueError, match=r"prompt of 31 tokens exceeds the 30 of micro_clip: 'cat"):
        micro.tokenize(["short", "cat " * 31])


@pytest.mark.parametrize("training", [True, False])
def test_an_adapted_clip_merges_to_the_same_features(training: bool, micro: OpenClip, micro_model: nn.Module) -> None:
    method = build("method", "randlora")
    adaptation = method.apply(micro_model, micro.targets_of(micro_model), seed=1)
    with torch.no_grad():
        for parameter in adaptation.trainable().values():
            parameter += 0.02 * torch.randn(parameter.shape)
        micro_model.train(training)
        images, tokens = torch.randn(2, 3, 32, 32), micro.tokenize(["a cat", "a dog"])
        before = [micro.image_features(micro_model, images), micro.text_features(micro_model, tokens)]
        adaptation.merge()
        after = [micro.image_features(micro_model, images), micro.text_features(micro_model, tokens)]
    assert all(torch.allclose(left, right, atol=1e-5) for left, right in zip(before, after, strict=True))
    assert set(micro_model.state_dict()) == set(micro.skeleton().state_dict())
