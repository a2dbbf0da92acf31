"""Decoded parts of datasets for runs: prepared on the first use, with a line that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from randlora.data.prepared import PreparedStore
from runners.data_progress import decoding_lines

if TYPE_CHECKING:
    from randlora.data.cache import DecodedCache
    from randlora.data.decode import DecodedSplit
    from randlora.data.images import ImageDataset
    from randlora.data.splits import Part
    from runners.machine import Machine

ReadPart = Callable[["ImageDataset", "Part"], "DecodedSplit"]


def part_reader(
    cache: DecodedCache, machine: Machine, *, size: int, stop: Callable[[], bool] = lambda: False
) -> ReadPart:
    """Return a function that gives the part of a dataset, decoded to ``size`` pixels.

    It raises DataError where the data is missing or not as described (DiskError where the disk refuses it), and
    Interrupted when ``stop`` asks for it while images are being prepared.
    """
    store, show = PreparedStore(folder=machine.prepared_path), decoding_lines(stop)

    def read(dataset: ImageDataset, part: Part) -> DecodedSplit:
        return cache.get(dataset, part=part, size=size, root=machine.data_path, store=store, on_progress=show)

    return read
