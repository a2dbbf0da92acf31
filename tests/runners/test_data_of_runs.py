"""Which images a run trains on, and when it looks at those it is judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lab import STEPS, Lab

import runners.image_workload
import runners.run_data
from randlora.data.cache import DecodedCache
from randlora.data.decode import DecodedSplit
from randlora.data.images import ImageDataset
from runners.compose import ConfigError, compose
from runners.plan import identify

ONE_STEP = ("method.rank=1", "recipe.max_steps=1")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DecodedSplit, torch.Tensor]]:
    """The training parts of runs and the positions they chose, in the order of the runs."""
    found: list[tuple[DecodedSplit, torch.Tensor]] = []
    real = runners.run_data.training_feed

    def feed(dataset: ImageDataset, split: DecodedSplit, positions: torch.Tensor, **settings: Any) -> Any:
        found.append((split, positions))
        return real(dataset, split, positions, **settings)

    monkeypatch.setattr(runners.run_data, "training_feed", feed)
    return found


def test_few_shots_are_nested_per_class_and_the_same_for_every_method(
    lab: Lab, chosen: list[tuple[DecodedSplit, torch.Tensor]]
) -> None:
    def drawn(method: str, shots: int, *extra: str) -> list[int]:
        assert lab.execute(lab.run(f"method={method}", *ONE_STEP, f"recipe.shots={shots}", *extra)).status == "ok"
        split, positions = chosen[-1]
        assert split.labels[positions].bincount().tolist() == [shots] * 3
        return positions.tolist()

    several = {shots: drawn("lora", shots) for shots in (1, 2, 4, 16)}
    for fewer, more in ((1, 2), (2, 4), (4, 16)):
        assert several[more][: 3 * fewer] == several[fewer]
    assert drawn("vera", 2) == several[2]
    assert drawn("vera", 16) == several[16]
    assert set(drawn("lora", 4, "seed=2")) != set(several[4])


class Watched(DecodedSplit):
    """A part that notes when its images are looked at."""

    looks: list[int]
    steps: list[int]

    def __getattribute__(self, name: str) -> Any:
        if name in ("stored", "images"):
            object.__getattribute__(self, "looks").append(len(object.__getattribute__(self, "steps")))
        return object.__getattribute__(self, name)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[int], list[int]]:
    """Parts asked for, steps done, and how many steps were done at every look at test images."""
    asked: list[str] = []
    steps: list[int] = []
    looks: list[int] = []
    real = DecodedCache.get

    def get(cache: DecodedCache, dataset: ImageDataset, *, part: str, **settings: Any) -> DecodedSplit:
        asked.append(part)
        split = real(cache, dataset, part=part, **settings)  # type: ignore[arg-type]
        if part != "test":
            return split
        seen = Watched(**{field.name: getattr(split, field.name) for field in dataclasses.fields(DecodedSplit)})
        object.__setattr__(seen, "looks", looks)
        object.__setattr__(seen, "steps", steps)
        return seen

    monkeypatch.setattr(DecodedCache, "get", get)
    return asked, steps, looks


def test_the_test_part_is_looked_at_once_after_training(
    lab: Lab, watched: tuple[list[str], list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, steps, looks = watched
    passes: list[int] = []
    real = runners.image_workload.predict

    def predict(*arguments: Any, **settings: Any) -> Any:
        passes.append(len(steps))
        return real(*arguments, **settings)

    def count(done: int, total: int, values: Mapping[str, float]) -> None:
        assert looks == []
        steps.append(done)

    monkeypatch.setattr(runners.image_workload, "predict", predict)
    run = lab.run("method=lora", "method.rank=1")
    record = lab.execute(run, on_step=count)
    assert record.status == "ok", record.reason
    assert sorted(asked) == ["test", "train"]
    assert len(steps) == STEPS
    assert passes == [STEPS]
    assert looks
    assert set(looks) == {STEPS}
    assert len(lab.store.read_predictions(run.id)) == 60


@pytest.mark.parametrize("train_on", ["full", "without_validation"])
def test_images_of_the_validation_part_are_not_trained_on(
    lab: Lab, chosen: list[tuple[DecodedSplit, torch.Tensor]], train_on: str
) -> None:
    validation = ["recipe.evaluate_on=validation", "recipe.validation_per_class=0", "dataset.splits.hold_out=12"]
    everything = ["recipe.shots=null", "recipe.fraction=1.0", f"dataset.splits.train_on={train_on}"]
    run = lab.run("method=lora", *ONE_STEP, *validation, *everything)
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert list(record.metrics) == ["validation/top1"]
    assert sorted(record.provenance.data_digests) == ["train", "validation"]
    assert len(lab.store.read_predictions(run.id)) == 12
    split, positions = chosen[-1]
    assert sorted(positions.tolist()) == list(range(48))
    held_out = run.dataset.load(part="validation", size=split.images.shape[-1], root=lab.images)
    trained, judged = ({image.numpy().tobytes() for image in images} for images in (split.images, held_out.images))
    assert (len(trained), len(judged)) == (48, 12)
    assert not trained & judged


def test_a_run_judged_by_the_test_part_trains_on_what_the_data_set_says(
    lab: Lab, chosen: list[tuple[DecodedSplit, torch.Tensor]]
) -> None:
    for train_on, count in (("full", 60), ("without_validation", 54)):
        everything = ["recipe.shots=null", "recipe.fraction=1.0", f"dataset.splits.train_on={train_on}"]
        assert lab.execute(lab.run("method=lora", *ONE_STEP, *everything)).status == "ok"
        assert len(chosen[-1][1]) == count


def test_a_validation_part_that_is_not_there_is_refused_before_anything_is_loaded(lab: Lab) -> None:
    asked = ["recipe.evaluate_on=validation", "recipe.validation_per_class=0"]
    with pytest.raises(ConfigError, match=r"dataset pets3 has no validation part; set dataset.splits.hold_out=0.1, or"):
        lab.run("method=lora", *ONE_STEP, *asked, "dataset.splits.hold_out=null")
    lab.run("method=lora", *ONE_STEP, "recipe.evaluate_on=validation", "recipe.validation_per_class=2")


def test_a_place_that_is_not_read_is_no_part_of_a_run(lab: Lab) -> None:
    def id_of(*overrides: str) -> str:
        return identify(compose("config", ["dataset=cifar10", *overrides]))[0]

    assert id_of("dataset.sources.folder.path=elsewhere") == id_of()
    assert id_of("dataset.source=folder") != id_of()
    assert id_of("dataset.source=folder", "dataset.sources.folder.path=elsewhere") != id_of("dataset.source=folder")
    fields = "_target_: randlora.data.sources.ImageFolderSource, path: copy, splits: {a: [b]}, label_names: null"
    extra = f"+dataset.sources.copy={{{fields}}}"
    run, other = lab.run("method=lora", "method.rank=1"), lab.run("method=lora", "method.rank=1", extra)
    assert run.id == other.id
    assert other.config == run.config
    assert list(run.config["dataset"]["sources"]) == ["parquet"]
    assert set(other.dataset.sources) == {"parquet", "copy"}
