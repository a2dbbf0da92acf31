"""Decoded splits kept in memory, so that a sweep decodes each split once."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from randlora.data.decode import DecodedSplit
from randlora.data.images import ImageDataset, Split


class DecodedCache:
    """Decoded splits by dataset description, split and size; whoever runs several trainings makes one and passes it on.

    The least recently used splits go when ``max_bytes`` would be passed; the one asked for is always returned. The
    tensors are shared between callers: read them, never write into them.
    """

    def __init__(self, *, max_bytes: int = 2 * 2**30) -> None:
        self.max_bytes = max_bytes
        self._splits: OrderedDict[tuple[ImageDataset, Split, int, Path], DecodedSplit] = OrderedDict()

    def __len__(self) -> int:
        return len(self._splits)

    @property
    def n_bytes(self) -> int:
        """Memory the kept splits take, in bytes."""
        return sum(split.n_bytes for split in self._splits.values())

    def get(self, dataset: ImageDataset, *, split: Split, size: int, root: Path) -> DecodedSplit:
        """Return a split, decoded now or before; arguments and errors as of ``ImageDataset.load``."""
        key = (dataset, split, size, root.resolve())
        if key not in self._splits:
            self._splits[key] = dataset.load(split=split, size=size, root=root)
        self._splits.move_to_end(key)
        decoded = self._splits[key]
        while len(self._splits) > 1 and self.n_bytes > self.max_bytes:
            self._splits.popitem(last=False)
        return decoded
