"""The same loop with every way of feeding it, in turns in one process."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import nn

from randlora.data.batches import BatchPlan
from randlora.data.feed import ImageFeed, Look
from randlora.data.images import ImageDataset
from randlora.inject import Adaptation
from randlora.recipe import Recipe
from randlora.tasks.base import Vocabulary
from results.input_record import CONSTANT, FeedResult, InputCase
from runners.benchmark.timing import interleave
from runners.checkpoint import Checkpointer
from runners.input_bench_feeds import ConstantFeed, Feeds, every_feed
from runners.machine import Machine
from runners.trainer import WARMUP_TIMINGS, TrainingClock, train

if TYPE_CHECKING:
    from randlora.backbones.base import ImageBackbone

OnStage = Callable[[str, int, int], None]
Visit = Callable[[ImageFeed], tuple[float, float]]  # seconds per batch, and of waiting for it
NEVER_S = 1e9
PLAIN = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))  # mean and standard deviation where no model asks for its own


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How each case is measured.

    Attributes:
        rounds: the most rounds; each takes every way of feeding once, the order rotated.
        seconds: no round of a case starts later than this, but for the first three.
        steps: timed batches of each way in a round, after a few that are not timed.
        workers: numbers of workers that originals are read with.
        seed: of order and crops.
    """

    rounds: int
    seconds: float
    steps: int
    workers: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is trained, adapted."""

    backbone: ImageBackbone
    model: nn.Module
    adaptation: Adaptation


def measure_training(
    dataset: ImageDataset, subject: Subject, *, recipe: Recipe, machine: Machine, protocol: Protocol, on_stage: OnStage
) -> InputCase:
    """Measure whole steps of the training loop on all training images of a data set.

    Raises:
        DataError: if the data is not here.
    """
    size = subject.backbone.image_size(subject.model)
    mean, std = subject.backbone.image_statistics(subject.model)
    look = Look(augmentation=recipe.augmentation, mean=mean, std=std)
    with every_feed(dataset, size=size, look=look, machine=machine, workers=protocol.workers) as feeds:
        long = _long_enough(recipe, feeds.images, protocol)
        constant = ConstantFeed(next(iter(feeds.ways.values())), long.plan(feeds.images, seed=protocol.seed))
        vocabulary = Vocabulary(classes=dataset.classes, prompt=dataset.prompt, templates=dataset.templates)
        start = {name: value.detach().clone() for name, value in subject.adaptation.trainable().items()}

        def visit(feed: ImageFeed) -> tuple[float, float]:
            with torch.no_grad():
                for name, value in subject.adaptation.trainable().items():
                    value.copy_(start[name])
            clock = _train(subject, feed, vocabulary, recipe=long, machine=machine, seed=protocol.seed)
            steps, waits = clock.steps_s[WARMUP_TIMINGS:], clock.waits_s[WARMUP_TIMINGS:]
            return fmean(steps) + fmean(waits), fmean(waits)

        ways = {CONSTANT: constant, **feeds.ways}
        found = _in_turns(ways, visit, protocol, stage=f"training on {dataset.title}", on_stage=on_stage)
        return _case(dataset, feeds, found, kind="training", size=size, recipe=recipe)


def measure_pixels(
    dataset: ImageDataset, *, size: int, recipe: Recipe, machine: Machine, protocol: Protocol, on_stage: OnStage
) -> InputCase:
    """Measure the making of batches alone, on all training images of a data set.

    Raises:
        DataError: if the data is not here.
    """
    look = Look(augmentation=recipe.augmentation, mean=PLAIN[0], std=PLAIN[1])
    with every_feed(dataset, size=size, look=look, machine=machine, workers=protocol.workers) as feeds:
        long = _long_enough(recipe, feeds.images, protocol)
        plan = long.plan(feeds.images, seed=protocol.seed)

        def visit(feed: ImageFeed) -> tuple[float, float]:
            seconds = fmean(_batch_times(feed, plan, long.total_steps(plan))[WARMUP_TIMINGS:])
            return seconds, seconds

        stage = f"batches of {dataset.title} at {size} pixels"
        found = _in_turns(feeds.ways, visit, protocol, stage=stage, on_stage=on_stage)
        return _case(dataset, feeds, found, kind="pixels", size=size, recipe=recipe)


def _long_enough(recipe: Recipe, images: int, protocol: Protocol) -> Recipe:
    """Return the recipe with as many steps as a round takes, and enough epochs for them."""
    steps = WARMUP_TIMINGS + protocol.steps
    once = dataclasses.replace(recipe, epochs=1, epochs_by_dataset=False, max_steps=steps)
    per_epoch = once.plan(images, seed=protocol.seed).steps_per_epoch
    return dataclasses.replace(once, epochs=-(-steps // per_epoch))


def _train(
    subject: Subject, feed: ImageFeed, vocabulary: Vocabulary, *, recipe: Recipe, machine: Machine, seed: int
) -> TrainingClock:
    objective = recipe.task.build(backbone=subject.backbone, model=subject.model, vocabulary=vocabulary, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        return train(
            objective,
            backbone=subject.adaptation.trainable(),
            recipe=recipe,
            feed=feed,
            accelerator=machine.prepare(),
            seed=seed,
            checkpointer=Checkpointer(Path(folder) / "never", run="bench", every_s=NEVER_S, every_steps=None),
            step_scope=subject.adaptation.accumulating,
            on_step=lambda done, total, values: None,
            stop=lambda: False,
        ).clock


def _batch_times(feed: ImageFeed, plan: BatchPlan, steps: int) -> list[float]:
    times = []
    with closing(feed.batches(plan, start=0, stop=steps)) as batches:
        began = time.perf_counter()
        for _ in batches:
            if feed.device.type == "cuda":
                torch.cuda.synchronize(feed.device)
            now = time.perf_counter()
            times.append(now - began)
            began = now
    return times


def _in_turns(
    ways: Mapping[str, ImageFeed], visit: Visit, protocol: Protocol, *, stage: str, on_stage: OnStage
) -> tuple[FeedResult, ...]:
    found: dict[str, list[tuple[float, float]]] = {label: [] for label in ways}

    def turn(label: str) -> Callable[[], None]:
        return lambda: found[label].append(visit(ways[label]))

    on_stage(stage, 0, protocol.rounds)
    interleave(
        {label: turn(label) for label in ways},
        rounds=protocol.rounds,
        seconds=protocol.seconds,
        on_round=lambda done: on_stage(stage, done, protocol.rounds),
    )
    return tuple(
        FeedResult(label=label, batch_s=tuple(b for b, _ in times), wait_s=tuple(w for _, w in times))
        for label, times in found.items()
    )


def _case(
    dataset: ImageDataset, feeds: Feeds, found: tuple[FeedResult, ...], *, kind: str, size: int, recipe: Recipe
) -> InputCase:
    return InputCase(
        dataset=dataset.title,
        kind="training" if kind == "training" else "pixels",
        size=size,
        source_pixels=feeds.source_pixels,
        images=feeds.images,
        batch_size=recipe.batch_size,
        feeds=found,
    )
