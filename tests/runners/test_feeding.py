"""How images reach the model changes no number: where pixels lie, how many processes decode, how many are evaluated."""

from __future__ import annotations

import pytest
import torch
from lab import ROOT, Lab

from randlora.data.decode import DecodedSplit
from randlora.data.feed import ImageFeed, OriginalFeed, StoredFeed
from randlora.tasks.base import ImageObjective, Vocabulary
from results.record import Record
from runners.evaluate import BLOCK, Predictions, predict
from runners.plan import Run

Finished = tuple[Lab, Run, Record]
ORIGINAL = ("method=randlora", "recipe.pixels=original", "recipe.flip=true")
CPU = torch.device("cpu")


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[ImageFeed]:
    """The feeds that runs of this test train from."""
    feeds: list[ImageFeed] = []
    init = ImageFeed.__init__

    def remember(self: ImageFeed, *args: object, **kwargs: object) -> None:
        feeds.append(self)
        init(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageFeed, "__init__", remember)
    return feeds


def test_training_from_the_device_and_from_images_read_ahead(
    finished: Finished, lab: Lab, fed: list[ImageFeed]
) -> None:
    first, run, _ = finished
    ahead = lab.run("method=randlora", "machine.resident_mib=0")
    assert ahead.id == run.id
    lab.execute(ahead)
    assert [type(feed) for feed in fed] == [StoredFeed]
    assert isinstance(fed[0], StoredFeed)
    assert not fed[0].resident
    assert lab.trained(run) == first.trained(run)


def test_training_from_originals_with_any_number_of_workers(finished: Finished, lab: Lab, fed: list[ImageFeed]) -> None:
    first, stored, _ = finished
    usual, other = lab.run(*ORIGINAL, "machine.workers=0"), lab.beside("other")
    lab.execute(usual)
    several = other.run(*ORIGINAL, "machine.workers=2")
    assert several.id == usual.id != stored.id
    other.execute(several)
    assert [type(feed) for feed in fed] == [OriginalFeed, OriginalFeed]
    assert other.trained(several) == lab.trained(usual)
    assert lab.trained(usual)[0] != first.trained(stored)[0]


def test_originals_of_a_run_are_cropped_from_the_images_it_was_dealt(lab: Lab, fed: list[ImageFeed]) -> None:
    """Without random crops and flips both kinds of pixels are the same, so the runs are too."""
    plain = ("method=randlora", "recipe.crop=none", "recipe.flip=false")
    stored, other = lab.run(*plain), lab.beside("other")
    lab.execute(stored)
    original = other.run(*plain, "recipe.pixels=original")
    other.execute(original)
    assert [type(feed) for feed in fed] == [StoredFeed, OriginalFeed]
    assert other.trained(original) == lab.trained(stored)


@pytest.fixture(scope="module")
def judged(finished: Finished) -> tuple[ImageObjective, DecodedSplit]:
    """An untrained model, and as many test images as two blocks and a rest take."""
    lab, run, _ = finished
    model = run.backbone.build(root=ROOT, device=CPU, seed=1)
    words = run.dataset
    vocabulary = Vocabulary(classes=words.classes, prompt=words.prompt, templates=words.templates)
    objective = run.recipe.task.build(backbone=run.backbone, model=model, vocabulary=vocabulary, seed=1)
    split = run.dataset.load(part="test", size=run.backbone.image_size(model), root=lab.images)
    return objective, split.subset(torch.arange(2 * BLOCK + 17) % len(split))


def predicted(judged: tuple[ImageObjective, DecodedSplit], batch_size: int) -> Predictions:
    objective, split = judged
    return predict(objective, split, mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=batch_size, device=CPU)


@pytest.fixture(scope="module")
def expected(judged: tuple[ImageObjective, DecodedSplit]) -> Predictions:
    return predicted(judged, 200)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_predictions_are_the_same_for_any_batch_size(
    judged: tuple[ImageObjective, DecodedSplit], expected: Predictions, batch_size: int
) -> None:
    found = predicted(judged, batch_size)
    assert len(found.predicted) == 217
    assert found.frame().equals(expected.frame())  # probabilities to the bit


def test_the_model_sees_every_image_once_in_blocks_of_one_size(
    judged: tuple[ImageObjective, DecodedSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, split = judged
    shapes: list[int] = []
    logits = objective.logits

    def remember(images: torch.Tensor, classifier: torch.Tensor) -> torch.Tensor:
        shapes.append(len(images))
        return logits(images, classifier)

    monkeypatch.setattr(objective, "logits", remember)
    found = predicted((objective, split.subset(torch.arange(3))), 7)
    assert shapes == [BLOCK]
    assert len(found.predicted) == 3
    shapes.clear()
    predicted((objective, split), 150)
    assert shapes == [BLOCK] * 3
