"""Decoded splits kept in memory, so that a sweep decodes each split once."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from randlora.data.decode import DecodedSplit
from randlora.data.images import ImageDataset
from randlora.data.splits import Part

if TYPE_CHECKING:
    from randlora.data.prepared import PreparedStore


class DecodedCache:
    """Decoded parts by what decides them (``ImageDataset.identity``) and size; several trainings share one.

    The least recently used splits go when ``max_bytes`` would be passed; the one asked for is always returned. The
    tensors are shared between callers: read them, never write into them.
    """

    def __init__(self, *, max_bytes: int = 2 * 2**30) -> None:
        self.max_bytes = max_bytes
        self._splits: OrderedDict[tuple[str, Part, int, Path], DecodedSplit] = OrderedDict()

    def __len__(self) -> int:
        return len(self._splits)

    @property
    def n_bytes(self) -> int:
        """Memory the kept splits take, in bytes."""
        return sum(split.n_bytes for split in self._splits.values())

    def get(
        self, dataset: ImageDataset, *, part: Part, size: int, root: Path, store: PreparedStore | None = None
    ) -> DecodedSplit:
        """Return a part, decoded now or before; arguments and errors as of ``ImageDataset.load``."""
        key = (dataset.identity, part, size, root.resolve())
        if key not in self._splits:
            self._splits[key] = dataset.load(part=part, size=size, root=root, store=store)
        self._splits.move_to_end(key)
        decoded = self._splits[key]
        while len(self._splits) > 1 and self.n_bytes > self.max_bytes:
            self._splits.popitem(last=False)
        return decoded
