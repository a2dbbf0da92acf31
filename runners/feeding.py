"""From chosen training images to the feed of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from randlora.data.errors import DataError
from randlora.data.feed import ImageFeed, Look, OriginalFeed, StoredFeed
from randlora.data.original import Originals, source_rows
from randlora.recipe import Recipe
from runners.machine import Machine

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

    from randlora.data.decode import DecodedSplit
    from randlora.data.images import ImageDataset

MIB = 2**20


def training_feed(
    dataset: ImageDataset,
    split: DecodedSplit,
    chosen: Int64[Tensor, " n"],
    *,
    recipe: Recipe,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    machine: Machine,
    device: torch.device,
) -> ImageFeed:
    """Return the chosen images of a training split as batches on the device, from the pixels the recipe names.

    Args:
        dataset: what ``split`` is the training part of.
        split: its decoded images.
        chosen: positions among them.
        recipe: pixels, crops and flips.
        statistics: mean and standard deviation that the backbone expects.
        machine: where the source is, workers, and what is kept on the device.
        device: where batches go.

    Raises:
        DataError: if originals are asked for and the source does not hold the images any more.
    """
    mean, std = statistics
    look = Look(augmentation=recipe.augmentation, mean=mean, std=std)
    labels = split.labels[chosen]
    if recipe.pixels == "stored":
        resident = machine.resident_mib * MIB
        places = split.places(chosen)
        return StoredFeed(split.stored, places, labels, look=look, device=device, resident_bytes=resident)
    originals = read_originals(dataset, split, chosen, root=machine.data_path)
    return OriginalFeed(originals, labels, size=split.size, look=look, device=device, workers=machine.workers)


def read_originals(dataset: ImageDataset, split: DecodedSplit, chosen: Int64[Tensor, " n"], *, root: Path) -> Originals:
    """Return the encoded images behind chosen decoded ones of a training split; arguments as of ``training_feed``."""
    rows = source_rows(len(split), split.skipped)
    where = dataset.where("train")
    originals = Originals(dataset.open("train", root=root), [rows[index] for index in chosen.tolist()], where=where)
    if list(originals.labels) != split.labels[chosen].tolist():
        raise DataError(
            f"{where}: the source has other labels than when it was decoded; prepare the dataset again, or take "
            "recipe.pixels=stored"
        )
    return originals
