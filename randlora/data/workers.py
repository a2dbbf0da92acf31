"""Batches of originals, prepared by worker processes of torch's DataLoader or in this process."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

from randlora.data.augment import Augmentation
from randlora.data.batches import BatchPlan
from randlora.data.errors import DataError
from randlora.data.original import Originals, crop_original

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

AHEAD = 2  # batches that each worker prepares ahead


class OriginalBatches(Dataset["Tensor | DataError"]):
    """The images of each step of a plan, decoded, cropped and flipped; the step is the index.

    What cannot be read is returned and not raised: the loader would bury its message in a worker's traceback.
    """

    def __init__(self, originals: Originals, plan: BatchPlan, *, augmentation: Augmentation, size: int) -> None:
        self.originals = originals
        self.plan = plan
        self.augmentation = augmentation
        self.size = size

    def __getitem__(self, step: int) -> UInt8[Tensor, "b 3 size size"] | DataError:
        """Return the images of a step, or why there are none."""
        drawn = zip(self.plan.indices(step).tolist(), self.plan.augment_seeds(step), strict=True)
        try:
            images = [
                crop_original(self.originals.open(index), seed, self.augmentation, size=self.size)
                for index, seed in drawn
            ]
        except DataError as error:
            return error
        return torch.stack(images)


def read_batches(
    batches: OriginalBatches, *, start: int, stop: int, workers: int, pinned: bool
) -> Generator[UInt8[Tensor, "b 3 size size"], None, None]:
    """Yield the images of steps ``start`` to ``stop - 1`` in order; the workers live as long as the iterator.

    Args:
        batches: what to read.
        start: first step.
        stop: the step after the last one.
        workers: processes, each ``AHEAD`` batches ahead; 0 reads each batch when it is asked for.
        pinned: put the images into pinned memory.

    Raises:
        DataError: if an image cannot be read.
    """
    loader = DataLoader(
        batches,
        sampler=range(start, stop),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pinned,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator().manual_seed(0),  # the loader seeds workers from it, and not from the global one
    )
    for images in loader:
        if isinstance(images, DataError):
            raise images
        yield images


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which the terminal sends to every process, to the main process; it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
