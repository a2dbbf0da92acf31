"""Which images a run trains on, and which it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from randlora.data.shots import few_shot, fraction, split_validation
from randlora.seeds import seed_for
from runners.data_parts import part_reader
from runners.feeding import training_feed
from runners.plan import ImageRun

if TYPE_CHECKING:
    import torch
    from torch import nn

    from randlora.data.cache import DecodedCache
    from randlora.data.decode import DecodedSplit
    from randlora.data.feed import ImageFeed
    from randlora.data.splits import Part


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The images of a run: those it trains on, and those it is judged by."""

    train: ImageFeed
    judged: DecodedSplit
    name: str
    digests: Mapping[str, str]
    skipped: Mapping[str, int]


def splits_of(
    run: ImageRun, model: nn.Module, *, cache: DecodedCache, device: torch.device, stop: Callable[[], bool]
) -> Splits:
    """Return the images of a run, prepared first where they are not.

    Args:
        run: the run.
        model: its backbone, which says how large images are and how they are normalised.
        cache: decoded parts that runs of this process share.
        device: where it trains.
        stop: asked while images are prepared.

    Raises:
        DataError: if images are missing, do not fit the data set's description, or are too few for the shots asked for.
    """
    recipe, size = run.recipe, run.backbone.image_size(model)
    name: Part = recipe.evaluate_on
    held = name == "validation" and recipe.validation_per_class > 0
    # judged on images of the data set's own validation part: none of them may be trained on
    dataset = run.dataset if name == "test" or held else run.dataset.without_validation()
    read = part_reader(cache, run.machine, size=size, stop=stop)
    everything = read(dataset, "train")
    labels, seed = everything.labels, seed_for(run.seed, "data")
    held_out = None
    if held:
        held_out = split_validation(labels, seed=seed, per_class=recipe.validation_per_class)
    if recipe.shots is not None:
        chosen = few_shot(labels, recipe.shots, seed=seed, held_out=held_out, classes=run.dataset.classes)
    else:
        chosen = fraction(labels, recipe.fraction, seed=seed, held_out=held_out)
    digests, skipped = {"train": everything.digest}, {"train": len(everything.skipped)}
    if held_out is not None:
        judged = everything.subset(held_out)
    else:
        judged = read(dataset, name)
        digests[name], skipped[name] = judged.digest, len(judged.skipped)
    return Splits(
        train=training_feed(
            dataset,
            everything,
            chosen,
            recipe=recipe,
            statistics=run.backbone.image_statistics(model),
            machine=run.machine,
            device=device,
        ),
        judged=judged,
        name=name,
        digests=digests,
        skipped={split: count for split, count in skipped.items() if count},
    )
