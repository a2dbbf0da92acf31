"""Vision transformers through timm: a small DINOv2 of the real class, weights that are missing or others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import build
from safetensors.torch import save_file
from torch import nn

from randlora.backbones.errors import WeightsError
from randlora.backbones.timm_vision import TimmVision
from randlora.tasks.base import Vocabulary
from randlora.tasks.heads import LinearHead

CPU = torch.device("cpu")
VOCABULARY = Vocabulary(classes=("cat", "dog", "tit"), prompt="{class}", templates=("{class}",))


@pytest.fixture
def dino() -> TimmVision:
    return build("backbone", "dinov2_vit_b14")


@pytest.fixture
def small(dino: TimmVision) -> TimmVision:
    shape = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    return dataclasses.replace(dino.with_random_weights(), pixels=42, overrides=shape)


@pytest.fixture
def model(small: TimmVision) -> nn.Module:
    return small.build(root=Path(), device=CPU, seed=3).eval()


def authors_file(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights under the names of the authors' file, which holds a mask token as well."""
    return {**model.state_dict(), "mask_token": torch.zeros(1, 24)}


def test_the_published_model_has_its_shapes(dino: TimmVision) -> None:
    skeleton = dino.skeleton()
    assert type(skeleton).__name__ == "VisionTransformer"
    targets = dino.targets_of(skeleton)
    shapes = [(site.out_features, site.in_features) for site in targets.sites]
    assert shapes == [(2304, 768), (3072, 768), (768, 3072)] * 12
    assert skeleton.get_parameter("pos_embed").shape == (1, 1 + 16 * 16, 768)
    assert dino.image_size(skeleton) == 224
    assert dino.feature_size(skeleton) == 768


def test_statistics_are_the_paper_s_or_the_model_s(dino: TimmVision) -> None:
    skeleton = dino.skeleton()
    clip = build("backbone", "clip_vit_b32")
    assert dino.image_statistics(skeleton) == clip.image_statistics(nn.Identity())
    own = dataclasses.replace(dino, mean=None, std=None)
    assert own.image_statistics(skeleton) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_features_are_the_normalised_class_token(small: TimmVision, model: nn.Module) -> None:
    images = torch.randn(3, 3, 42, 42, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = small.image_features(model, images)
        assert torch.equal(features, model.forward_features(images)[:, 0])
    assert features.shape == (3, small.feature_size(model)) == (3, 24)
    assert not torch.allclose(features.norm(dim=1), torch.ones(3), atol=0.1)


def test_there_is_no_text_tower(small: TimmVision, model: nn.Module) -> None:
    assert not small.has_text
    with pytest.raises(ValueError, match="backbone dinov2_vit_b14 has no text tower; use a recipe with a linear head"):
        small.tokenize(["a cat"])
    with pytest.raises(ValueError, match="has no text tower"):
        small.text_features(model, torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize("method", ["randlora", "lora", "full_ft"])
def test_a_step_with_a_linear_head_lowers_the_loss(method: str, small: TimmVision, model: nn.Module) -> None:
    objective = LinearHead(initial_std=0.01, label_smoothing=0.0).build(
        backbone=small, model=model, vocabulary=VOCABULARY, seed=1
    )
    chosen = build("method", method)
    chosen = chosen if chosen.size_field is None else chosen.resized(4)
    adaptation = chosen.apply(model, small.targets_of(model), seed=1)
    assert len(adaptation.sites) == (0 if method == "full_ft" else 6)
    trained = [*adaptation.trainable().values(), *objective.head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(6, 3, 42, 42, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for step in range(3):
        loss = objective(images, labels, step=step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    with torch.no_grad():
        before = small.image_features(model, images)
        adaptation.merge()
        assert torch.allclose(before, small.image_features(model, images), atol=1e-5)


def test_a_random_start_follows_its_seed_and_no_other(small: TimmVision) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = small.build(root=Path(), device=CPU, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (small.build(root=Path(), device=CPU, seed=seed) for seed in (4, 5))
    assert all(torch.equal(left, right) for left, right in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.patch_embed.proj.weight, other.patch_embed.proj.weight)
    assert small.weights_digest(root=Path()) is None


@pytest.mark.parametrize("kind", ["timm", "authors"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_loads_in_float32(kind: str, suffix: str, small: TimmVision, model: nn.Module, tmp_path: Path) -> None:
    state = {"timm": model.state_dict(), "authors": authors_file(model)}[kind]
    path = tmp_path / f"w.{suffix}"
    halves = {name: tensor.half() for name, tensor in state.items()}
    if suffix == "pth":
        torch.save(halves, path)
    else:
        save_file(halves, path)
    backbone = dataclasses.replace(small, checkpoint=path.name)
    loaded = backbone.build(root=tmp_path, device=CPU, seed=9)
    assert backbone.weights_digest(root=tmp_path) is not None
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, model.get_parameter(name).half().float())


def test_positions_of_another_image_size_are_resampled(small: TimmVision, model: nn.Module, tmp_path: Path) -> None:
    larger = dataclasses.replace(small, pixels=70).build(root=Path(), device=CPU, seed=3)
    torch.save(authors_file(larger), tmp_path / "w.pth")
    loaded = dataclasses.replace(small, checkpoint="w.pth").build(root=tmp_path, device=CPU)
    assert loaded.pos_embed.shape == model.pos_embed.shape
    assert torch.equal(loaded.cls_token, larger.cls_token)
    assert loaded.pos_embed.count_nonzero()


def test_missing_weights_say_how_to_get_them(small: TimmVision, tmp_path: Path) -> None:
    backbone = dataclasses.replace(small, checkpoint="none.pth")
    for act in (lambda: backbone.build(root=tmp_path, device=CPU), lambda: backbone.weights_digest(root=tmp_path)):
        with pytest.raises(WeightsError, match=r"no weights at .*none.pth; give another file with backbone.checkpoint"):
            act()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_truncated_weights_are_named(suffix: str, small: TimmVision, model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), path)
    else:
        save_file(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=rf"w.{suffix} cannot be read as weights .*; fetch it again"):
        dataclasses.replace(small, checkpoint=path.name).build(root=tmp_path, device=CPU)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "nothing of it"])
def test_weights_of_another_architecture_are_named(
    change: str, small: TimmVision, model: nn.Module, tmp_path: Path
) -> None:
    state, name = dict(model.state_dict()), "blocks.1.mlp.fc1.weight"
    if change == "missing":
        del state[name]
    elif change == "unexpected":
        state["blocks.2.mlp.fc1.weight"] = torch.zeros(2)
    elif change == "shape":
        state[name] = torch.zeros(3, 3)
    else:
        state = {"epoch": torch.tensor(3)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w.pth holds weights of another architecture: "):
        dataclasses.replace(small, checkpoint="w.pth").build(root=tmp_path, device=CPU)


def test_an_unknown_tag_lists_the_tags(dino: TimmVision, small: TimmVision) -> None:
    for backbone in (dino, small):
        other = dataclasses.replace(backbone, pretrained="lvd143m")
        with pytest.raises(WeightsError, match=r"no weights tagged 'lvd143m' for .*; there are: lvd142m"):
            other._load_tag(nn.Identity())


def test_weights_that_cannot_be_downloaded_say_what_to_do(
    dino: TimmVision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    words = "the weights vit_base_patch14_dinov2 / lvd142m are not on this machine"
    with pytest.raises(WeightsError, match=words) as caught:
        dino._load_tag(nn.Identity())
    assert "backbone.pretrained=null backbone.checkpoint=/path/to/weights" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "vit_base_patch14_dinov9"}, "timm has no architecture 'vit_base_patch14_dinov9'; nearest: vit_base"),
        ({"model": "resnet18"}, "resnet18 (cannot be made|is no vision transformer)"),
        ({"overrides": {"dept": 2}}, "vit_base_patch14_dinov2 cannot be made: .*'dept'"),
        ({"overrides": {"embed_dim": 25}}, "vit_base_patch14_dinov2 cannot be made: "),
    ],
)
def test_architectures_that_cannot_be_are_named(fields: dict[str, Any], words: str, dino: TimmVision) -> None:
    with pytest.raises(ValueError, match=f"backbone dinov2_vit_b14: {words}"):
        dataclasses.replace(dino, **fields).skeleton()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixels": 0}, "TimmVision.pixels = 0; valid: a whole number of 1 or more"),
        ({"mean": [0.5]}, r"TimmVision.mean = \[0.5\]; valid: three numbers, or null"),
        ({"std": "clip"}, "TimmVision.std = 'clip'; valid: three numbers above 0, or null"),
        ({"std": [0.2, 0.0, 0.2]}, "TimmVision.std = .*; valid: three numbers above 0, or null"),
        ({"overrides": None}, "TimmVision.overrides = None; valid: a mapping"),
        ({"pretrained": 3}, "TimmVision.pretrained = 3; valid: a string, or null"),
    ],
)
def test_fields_of_the_wrong_kind_are_named(fields: dict[str, Any], words: str, dino: TimmVision) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(dino, **fields)
