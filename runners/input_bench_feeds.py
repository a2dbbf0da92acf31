"""Every way of feeding the training images of a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from randlora.data.batches import BatchPlan
from randlora.data.feed import Batches, ImageFeed, Look, OriginalFeed, StoredFeed
from randlora.data.images import ImageDataset
from runners.feeding import read_originals
from runners.machine import Machine

MEASURED = 200  # images whose size in the source is looked at


@dataclass(frozen=True, kw_only=True)
class Feeds:
    """The ways of feeding by their names, and facts about the images.

    Attributes:
        ways: feeds by the names they have in tables.
        images: number of training images.
        source_pixels: median width and height in the source.
    """

    ways: Mapping[str, ImageFeed]
    images: int
    source_pixels: tuple[int, int]


class ConstantFeed(ImageFeed):
    """The first batch of another feed, again and again."""

    def __init__(self, other: ImageFeed, plan: BatchPlan) -> None:
        super().__init__(other.labels, look=other.look, device=other.device)
        batches = other.batches(plan, start=0, stop=1)
        self.batch = next(batches)
        batches.close()

    def batches(self, plan: BatchPlan, *, start: int, stop: int) -> Batches:
        """Yield the one batch for every step."""
        for _ in range(start, stop):
            yield self.batch


@contextmanager
def every_feed(
    dataset: ImageDataset, *, size: int, look: Look, machine: Machine, workers: Sequence[int]
) -> Iterator[Feeds]:
    """Yield feeds of all training images: stored on the device and read ahead from a mapped file, and original.

    Raises:
        DataError: if the data is not here.
    """
    device = machine.torch_device()
    split = dataset.load(part="train", size=size, root=machine.data_path)
    everything, count = torch.arange(len(split)), split.images.numel()
    originals = read_originals(dataset, split, everything, root=machine.data_path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images"
        split.images.numpy().tofile(file)
        mapped = torch.from_file(str(file), shared=False, size=count, dtype=torch.uint8).view(split.images.shape)
        ways: dict[str, ImageFeed] = {
            label: StoredFeed(images, everything, split.labels, look=look, device=device, resident_bytes=resident)
            for label, images, resident in (
                ("stored, on the device", split.images, count),
                ("stored, read ahead", mapped, 0),
            )
        }
        for number in workers:
            label = f"original, {number} worker{'' if number == 1 else 's'}"
            ways[label] = OriginalFeed(originals, split.labels, size=size, look=look, device=device, workers=number)
        sides = [originals.open(index).size for index in range(min(MEASURED, len(split)))]
        width, height = (round(median(side[axis] for side in sides)) for axis in (0, 1))
        yield Feeds(ways=ways, images=len(split), source_pixels=(width, height))
