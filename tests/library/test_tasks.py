"""Losses and heads, by hand on small cases and on the embedded CLIP with random weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from configs import METHODS, build
from tiny_models import suited
from torch import Tensor, nn
from torch.nn import functional as F

from randlora.backbones.clip import OpenClip
from randlora.tasks.base import Vocabulary
from randlora.tasks.heads import FrozenTextHead, LinearHead
from randlora.tasks.image_text import ImageText, class_embeddings

VOCABULARY = Vocabulary(
    classes=("cat", "dog", "great tit"),
    prompt="An image of {class}",
    templates=("a photo of a {class}.", "one {class}"),
)
ANGLES = torch.tensor([0.0, 90.0, 200.0]).deg2rad()
TEXTS = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
PLAIN = {"train_prompts": "prompt", "test_prompts": "prompt", "label_smoothing": 0.0}


class Plane:
    """A backbone whose images are points on the unit circle and whose texts are three fixed ones."""

    name = "plane"

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return torch.arange(len(texts))[:, None]

    def text_features(self, model: nn.Module, tokens: Tensor) -> Tensor:
        return TEXTS[tokens.squeeze(1)]

    def image_features(self, model: nn.Module, images: Tensor) -> Tensor:
        return F.normalize(images.flatten(1)[:, :2], dim=-1)

    def feature_size(self, model: nn.Module) -> int:
        return 2


class Model(nn.Module):
    def __init__(self, logit_scale: float) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))


IMAGES = torch.tensor([[1.0, 0.2], [0.5, 1.0], [0.9, -0.3], [-1.0, -0.2], [0.1, 1.0]])
LABELS = torch.tensor([2, 0, 2, 1, 0])


def loss_of(task: Any, *, labels: Tensor = LABELS, logit_scale: float = 1.5) -> float:
    built = task.build(backbone=Plane(), model=Model(logit_scale), vocabulary=VOCABULARY, seed=1)
    return float(built(IMAGES[: len(labels)], labels, step=0).detach())


def image_text(**changes: Any) -> ImageText:
    return ImageText(**{"negatives": "batch", "temperature": "exponential", **PLAIN, **changes})


def test_batch_negatives_aim_at_the_first_sample_of_the_class() -> None:
    """Labels 2 0 2 1 0: the texts are those of the samples, the targets 0 1 0 3 1."""
    loss = loss_of(image_text())
    by_hand = 0.0
    for image, target in zip(F.normalize(IMAGES, dim=1), (0, 1, 0, 3, 1), strict=True):
        scores = [math.exp(math.exp(1.5) * float(image @ TEXTS[label])) for label in LABELS]
        by_hand -= math.log(scores[target] / sum(scores)) / 5
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_class_negatives_contrast_with_every_class_once() -> None:
    loss = loss_of(image_text(negatives="classes"))
    by_hand = 0.0
    for image, label in zip(F.normalize(IMAGES, dim=1), LABELS, strict=True):
        scores = [math.exp(math.exp(1.5) * float(image @ text)) for text in TEXTS]
        by_hand -= math.log(scores[label] / sum(scores)) / 5
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_negatives_agree_on_a_batch_with_every_class_once() -> None:
    labels = torch.tensor([2, 0, 1])
    losses = [loss_of(image_text(negatives=kind), labels=labels) for kind in ("batch", "classes")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("negatives", ["batch", "classes"])
def test_raw_temperature_is_the_stored_number(negatives: str) -> None:
    raw = loss_of(image_text(negatives=negatives, temperature="raw"), logit_scale=4.6)
    exponential = loss_of(image_text(negatives=negatives), logit_scale=math.log(4.6))
    different = loss_of(image_text(negatives=negatives), logit_scale=4.6)
    assert raw == pytest.approx(exponential, rel=1e-5)
    assert raw != pytest.approx(different, rel=0.1)


def test_label_smoothing_reaches_the_loss() -> None:
    sharp, smooth = (loss_of(image_text(negatives="classes", label_smoothing=share)) for share in (0.0, 0.2))
    features = F.normalize(IMAGES, dim=1)
    expected = F.cross_entropy(math.exp(1.5) * features @ TEXTS.T, LABELS, label_smoothing=0.2)
    assert smooth == pytest.approx(float(expected), rel=1e-5)
    assert sharp != pytest.approx(smooth, rel=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("negatives", "all"),
        ("temperature", "log"),
        ("train_prompts", "none"),
        ("test_prompts", "none"),
        ("label_smoothing", 1.0),
    ],
)
def test_image_text_fields_are_checked(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"ImageText\.{field} = .*; valid: "):
        image_text(**{field: value})


def test_head_fields_are_checked() -> None:
    with pytest.raises(ValueError, match=r"FrozenTextHead.label_smoothing = 1.5; valid: "):
        FrozenTextHead(label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"LinearHead.initial_std = -1.0; valid: a number of 0 or more"):
        LinearHead(initial_std=-1.0, label_smoothing=0.0)
    assert LinearHead(initial_std=0.0, label_smoothing=0.0).initial_std == 0.0


def test_prompts_name_the_class() -> None:
    assert VOCABULARY.prompts(VOCABULARY.prompt) == ["An image of cat", "An image of dog", "An image of great tit"]


def test_templates_take_turns_in_training(micro: OpenClip, micro_model: nn.Module) -> None:
    task = image_text(negatives="classes", train_prompts="templates", test_prompts="templates")
    built = task.build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1)
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    losses = [float(built(images, labels, step=step).detach()) for step in range(3)]
    assert losses[0] == losses[2] != losses[1]


def test_class_embeddings_average_the_templates(micro: OpenClip, micro_model: nn.Module) -> None:
    tokens = [micro.tokenize(VOCABULARY.prompts(template)) for template in VOCABULARY.templates]
    with torch.no_grad():
        found = class_embeddings(micro, micro_model, tokens)
        one, two = (micro_model.encode_text(matrix, normalize=True) for matrix in tokens)
    assert torch.allclose(found, F.normalize((one + two) / 2, dim=-1), atol=1e-6)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)


def test_the_frozen_head_is_clip_s_zero_shot_classifier(micro: OpenClip, micro_model: nn.Module) -> None:
    built = FrozenTextHead(label_smoothing=0.0).build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1)
    images = torch.randn(4, 3, 32, 32)
    tokens = [micro.tokenize(VOCABULARY.prompts(template)) for template in VOCABULARY.templates]
    with torch.no_grad():
        expected = micro_model.logit_scale.exp() * micro_model.encode_image(images, normalize=True)
        expected = expected @ class_embeddings(micro, micro_model, tokens).T
        assert torch.allclose(built.logits(images, built.classifier()), expected, atol=1e-5)
        assert not list(built.head.parameters())
        assert not any("weights" in name for name in built.state_dict())


def test_the_frozen_head_sends_no_gradient_to_the_text_tower(micro: OpenClip, micro_model: nn.Module) -> None:
    built = FrozenTextHead(label_smoothing=0.0).build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1)
    assert not built.weights.requires_grad
    built(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2]), step=0).backward()
    for name, parameter in micro_model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("visual."), name


def test_the_frozen_head_stays_as_the_towers_move(micro: OpenClip, micro_model: nn.Module) -> None:
    built = FrozenTextHead(label_smoothing=0.0).build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1)
    before = built.classifier().clone()
    with torch.no_grad():
        micro_model.text_projection.mul_(-1)
    assert torch.equal(built.classifier(), before)


def test_both_towers_and_the_temperature_learn_from_image_text(micro: OpenClip, micro_model: nn.Module) -> None:
    built = image_text().build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1)
    built(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2]), step=0).backward()
    for name, parameter in micro_model.named_parameters():
        assert parameter.grad is not None, name
        assert name == "logit_scale" or bool(parameter.grad.abs().sum() > 0), name


def test_a_linear_head_is_counted_trained_and_seeded(micro: OpenClip, micro_model: nn.Module) -> None:
    task = LinearHead(initial_std=0.02, label_smoothing=0.0)
    size = task.head_size(backbone=micro, model=micro_model, n_classes=3)
    one, again, other = (
        task.build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=seed) for seed in (1, 1, 2)
    )
    parameters = list(one.head.parameters())
    assert size == 3 * 128 == sum(parameter.numel() for parameter in parameters)
    assert [name for name, _ in one.head.named_parameters(prefix="head")] == ["head.linear.weight"]
    assert torch.equal(one.classifier(), again.classifier())
    assert not torch.equal(one.classifier(), other.classifier())
    assert float(one.classifier().std()) == pytest.approx(0.02, rel=0.15)
    one(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2]), step=0).backward()
    assert parameters[0].grad is not None
    assert micro_model.text_projection.grad is None


def test_scores_of_a_linear_head_are_those_it_trains_on(micro: OpenClip, micro_model: nn.Module) -> None:
    built = LinearHead(initial_std=0.5, label_smoothing=0.0).build(
        backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1
    )
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        scores = built.logits(images, built.classifier())
        assert float(built(images, labels, step=0)) == pytest.approx(float(F.cross_entropy(scores, labels)), rel=1e-5)


@pytest.mark.parametrize("name", ["clip", "clip_vision", "linear_head", "micro_clip", "pretrain"])
def test_tasks_of_recipes_say_whether_they_train_a_head(name: str, micro: OpenClip, micro_model: nn.Module) -> None:
    task = build("recipe", name).task
    size = task.head_size(backbone=micro, model=micro_model, n_classes=10)
    built = task.build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1)
    assert (size > 0) == task.has_head == bool(list(built.head.parameters()))


def test_a_frozen_backbone_needs_the_head_it_stands_for() -> None:
    METHODS["zero_shot"].check_task(has_head=False)
    METHODS["linear_probe"].check_task(has_head=True)
    with pytest.raises(ValueError, match="needs a recipe without a head"):
        METHODS["zero_shot"].check_task(has_head=True)
    with pytest.raises(ValueError, match="needs a recipe that trains a head"):
        METHODS["linear_probe"].check_task(has_head=False)
    for method in METHODS.values():
        if method.trains_backbone:
            method.check_task(has_head=True)
            method.check_task(has_head=False)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.size_field is not None])
def test_every_adapter_learns_in_both_towers(name: str, micro: OpenClip, micro_model: nn.Module) -> None:
    method = dataclasses.replace(METHODS[name].resized(4))
    built = image_text().build(backbone=micro, model=micro_model, vocabulary=VOCABULARY, seed=1)
    adaptation = method.apply(micro_model, suited(method, micro.targets_of(micro_model)), seed=1)
    with torch.no_grad():
        for parameter in adaptation.trainable().values():
            parameter += 0.01
    built(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2]), step=0).backward()
    for key, parameter in adaptation.trainable().items():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
