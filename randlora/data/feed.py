"""Batches of training images on the device: from stored pixels, kept there or read batch by batch, or from originals.

A batch is a function of the plan and the step alone. Where the pixels lie, how far ahead they are read and by how many
workers changes no bit of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from randlora.data.augment import Augmentation, augment, normalise
from randlora.data.batches import BatchPlan
from randlora.data.original import Originals
from randlora.data.prefetch import prefetched
from randlora.data.workers import OriginalBatches, read_batches

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, UInt8
    from torch import Tensor

DEPTH = 3  # batches read ahead
Batch = tuple["Tensor", ...]
ImageBatch = tuple["Float32[Tensor, 'b 3 s s']", "Int64[Tensor, ' b']"]
Batches = Generator[Batch, None, None]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What becomes of an image between its pixels and the model.

    Attributes:
        augmentation: random crops and flips.
        mean: per colour channel, of pixels in [0, 1].
        std: likewise.
    """

    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Feed(ABC):
    """Training samples as batches: tensors on the device with the samples along their first side."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of training samples."""

    @abstractmethod
    def batches(self, plan: BatchPlan, *, start: int, stop: int) -> Batches:
        """Yield the batches of steps ``start`` to ``stop - 1``; close the iterator to end early.

        Raises:
            DataError: if a sample cannot be read.
        """


class ImageFeed(Feed):
    """Training images with their labels: batches of normalised images (float32 b x 3 x s x s) and labels (int64 b)."""

    def __init__(self, labels: Int64[Tensor, " n"], *, look: Look, device: torch.device) -> None:
        self.labels = labels.to(device)
        self.look = look
        self.device = device

    def __len__(self) -> int:
        """Return the number of training images."""
        return len(self.labels)

    def _finish(self, images: UInt8[Tensor, "b 3 s s"], labels: Int64[Tensor, " b"]) -> ImageBatch:
        return normalise(images, self.look.mean, self.look.std), labels


class StoredFeed(ImageFeed):
    """Decoded images; crops, flips and normalisation run on whole batches on the device.

    Up to ``resident_bytes`` the chosen images are copied to the device once. Larger sets stay where they are, in memory
    or in a memory-mapped file: a thread gathers the next batches (in pinned memory for a GPU), each is copied over.

    Args:
        images: all stored images, on the CPU.
        positions: those to train on.
        labels: their labels.
        look: crops, flips and normalisation.
        device: where batches go.
        resident_bytes: the largest size of the chosen images that is kept on the device.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "m 3 s s"],
        positions: Int64[Tensor, " n"],
        labels: Int64[Tensor, " n"],
        *,
        look: Look,
        device: torch.device,
        resident_bytes: float,
    ) -> None:
        super().__init__(labels, look=look, device=device)
        self.resident = images[:1].nbytes * len(positions) <= resident_bytes
        self.images = images[positions].to(device) if self.resident else images
        self.positions = positions

    def batches(self, plan: BatchPlan, *, start: int, stop: int) -> Batches:
        """See :meth:`Feed.batches`."""
        if self.resident:
            for step in range(start, stop):
                chosen = plan.indices(step).to(self.device)
                yield self._altered(self.images[chosen], chosen, plan, step)
            return
        with closing(prefetched(lambda step: self._gather(plan, step), start=start, stop=stop, depth=DEPTH)) as ahead:
            for step, gathered in zip(range(start, stop), ahead, strict=True):
                images = gathered.to(self.device, non_blocking=True)
                yield self._altered(images, plan.indices(step).to(self.device), plan, step)

    def _gather(self, plan: BatchPlan, step: int) -> UInt8[Tensor, "b 3 s s"]:
        chosen = self.positions[plan.indices(step)]
        pinned = self.device.type == "cuda"
        gathered = torch.empty((len(chosen), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        return torch.index_select(self.images, 0, chosen, out=gathered)

    def _altered(self, images: Tensor, chosen: Tensor, plan: BatchPlan, step: int) -> ImageBatch:
        altered = augment(images, plan.augment_seeds(step), self.look.augmentation)
        return self._finish(altered, self.labels[chosen])


class OriginalFeed(ImageFeed):
    """Encoded images of full size, decoded and cropped anew for every batch by Pillow, as torchvision does it.

    Args:
        originals: the images to train on.
        labels: their labels.
        size: pixels a side that the model takes.
        look: crops, flips and normalisation.
        device: where batches go.
        workers: processes that prepare batches ahead; 0 prepares each when it is asked for.
    """

    def __init__(
        self,
        originals: Originals,
        labels: Int64[Tensor, " n"],
        *,
        size: int,
        look: Look,
        device: torch.device,
        workers: int,
    ) -> None:
        super().__init__(labels, look=look, device=device)
        self.originals = originals
        self.size = size
        self.workers = workers

    def batches(self, plan: BatchPlan, *, start: int, stop: int) -> Batches:
        """See :meth:`Feed.batches`."""
        source = OriginalBatches(self.originals, plan, augmentation=self.look.augmentation, size=self.size)
        pinned = self.device.type == "cuda"
        with closing(read_batches(source, start=start, stop=stop, workers=self.workers, pinned=pinned)) as ahead:
            for step, images in zip(range(start, stop), ahead, strict=True):
                chosen = plan.indices(step).to(self.device)
                yield self._finish(images.to(self.device, non_blocking=True), self.labels[chosen])
