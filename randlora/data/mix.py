"""Several data sets as one: their classes in one label space, their training images together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from randlora.data.cache import DecodedCache
from randlora.data.images import ImageDataset

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingMix:
    """The training splits of several data sets with one label space.

    Attributes:
        images: all training images, one data set after another.
        labels: labels in the joint order of classes.
        classes: all class names in label order.
        digests: digest of each split by data set.
    """

    images: UInt8[Tensor, "n 3 s s"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    digests: Mapping[str, str]


def mix_training_splits(
    parts: Mapping[str, ImageDataset], *, size: int, root: Path, cache: DecodedCache
) -> TrainingMix:
    """Return the training splits of the parts as one, decoded to ``size`` pixels; classes of the same words become one.

    Raises:
        ValueError: if there are no parts.
        DataError: if a part's data is missing or does not fit its description.
    """
    if not parts:
        raise ValueError("a training mix needs at least one data set")
    images, labels, classes, digests = [], [], dict[str, int](), {}
    for part in parts.values():
        split = cache.get(part, part="train", size=size, root=root)
        shared = torch.tensor([classes.setdefault(words, len(classes)) for words in part.classes])
        images.append(split.images)
        labels.append(shared[split.labels])
        digests[part.name] = split.digest
    return TrainingMix(images=torch.cat(images), labels=torch.cat(labels), classes=tuple(classes), digests=digests)
