"""Which images are stored together, and which of them a part consists of.

Parts that are taken from the same official splits share a pool, whose images are stored once. Where validation images
are drawn out of those of training there are two training parts, one for each ``train_on``; both are stored, as rows of
the pool, so that one preparation serves both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from randlora.data.errors import DataError
from randlora.data.labels import digest_of_some
from randlora.data.prepared_manifest import APART
from randlora.data.splits import PARTS

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from torch import Tensor

    from randlora.data.decode import Decoding
    from randlora.data.images import ImageDataset
    from randlora.data.raw import RawSplit
    from randlora.data.splits import Part, TrainOn


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part to store: which one, and of which dataset, that is under which ``train_on``."""

    part: Part
    dataset: ImageDataset


@dataclass(frozen=True, kw_only=True)
class Members:
    """What a part consists of: see ``PartManifest``, ``rows`` as a tensor."""

    rows: Int64[Tensor, " n"] | None
    per_class: tuple[int, ...]
    skipped: tuple[int, ...]
    digest: str


def stored_name(part: Part, *, train_on: TrainOn, stored: Mapping[str, object]) -> str:
    """Return the name that a part is stored under, given all that are stored."""
    return APART if part == "train" and train_on == "without_validation" and APART in stored else part


def parts_of(dataset: ImageDataset) -> tuple[Part, ...]:
    """Return the parts that a dataset has; not all have validation images of their own."""
    return tuple(part for part in PARTS if part != "validation" or dataset.splits.has_validation)


def pools_of(dataset: ImageDataset) -> dict[str, dict[str, StoredPart]]:
    """Return the pools of a dataset, and in each its parts by the name they are stored under.

    A pool is called after the parts that are taken from it, as in ``train+validation``.
    """
    drawn = dataset.splits.draws_validation
    full = replace(dataset, splits=replace(dataset.splits, train_on="full")) if drawn else dataset
    by_keys: dict[tuple[str, ...], dict[str, StoredPart]] = {}
    for part in parts_of(dataset):
        by_keys.setdefault(dataset.splits.keys(part), {})[part] = StoredPart(part=part, dataset=full)
    if drawn:
        apart = StoredPart(part="train", dataset=dataset.without_validation())
        by_keys[dataset.splits.keys("train")][APART] = apart
    return {"+".join(part for part in PARTS if part in parts): parts for parts in by_keys.values()}


class MemberCounter:
    """Counts the images of one part while its pool is decoded."""

    def __init__(self, stored: StoredPart, pool: RawSplit) -> None:
        self.where = stored.dataset.where(stored.part)
        self.positions = stored.dataset.members(stored.part, pool)
        self._digest = pool.digest
        self._sha = hashlib.sha256()
        self._is_member = bytearray()
        if self.positions is not None:
            self._is_member = bytearray(int(self.positions.max()) + 1)
            for position in self.positions.tolist():
                self._is_member[position] = 1

    def add(self, image: UInt8[Tensor, "3 size size"], index: int) -> None:
        """Note the image at ``index`` of the pool; the digest of a part rests on its images where no file has one."""
        if self._digest is None and index < len(self._is_member) and self._is_member[index]:
            self._sha.update(image.numpy().data)

    def members(self, found: Decoding, *, size: int, n_classes: int) -> Members:
        """Return what the part consists of, once its pool is decoded.

        Raises:
            DataError: if none of its images could be read.
        """
        if self.positions is None:
            counts = torch.bincount(found.labels, minlength=n_classes)
            return Members(rows=None, per_class=tuple(counts.tolist()), skipped=found.skipped, digest=found.digest)
        kept = torch.ones(len(found.labels) + len(found.skipped), dtype=torch.bool)
        kept[torch.tensor(found.skipped, dtype=torch.int64)] = False
        is_kept = kept[self.positions]
        rows = (kept.cumsum(0) - 1)[self.positions[is_kept]]
        skipped = tuple((~is_kept).nonzero().flatten().tolist())
        if not len(rows):
            raise DataError(
                f"{self.where}: the split holds no readable images ({len(skipped)} unreadable ones); check the source"
            )
        labels = found.labels[rows]
        self._sha.update(repr((size, labels.tolist())).encode())
        return Members(
            rows=rows,
            per_class=tuple(torch.bincount(labels, minlength=n_classes).tolist()),
            skipped=skipped,
            digest=digest_of_some(self._digest, self.positions) or self._sha.hexdigest(),
        )
