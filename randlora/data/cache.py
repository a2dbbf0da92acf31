"""Decoded parts kept at hand, so that a sweep opens or decodes each of them once."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from randlora.data.decode import DecodedSplit
from randlora.data.images import ImageDataset
from randlora.data.splits import Part

if TYPE_CHECKING:
    from randlora.data.prepared import PreparedStore
    from randlora.data.prepared_build import OnProgress


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
        """Size of the kept splits, in bytes; what a store has mapped into memory included."""
        return sum(split.n_bytes for split in self._splits.values())

    def get(
        self,
        dataset: ImageDataset,
        *,
        part: Part,
        size: int,
        root: Path,
        store: PreparedStore | None = None,
        on_progress: OnProgress = lambda event: None,
    ) -> DecodedSplit:
        """Return a part: one at hand, else from ``store``, which prepares what it does not hold, else decoded now.

        Arguments and errors are those of ``ImageDataset.load`` and of ``PreparedStore.prepare``.
        """
        key = (dataset.identity, part, size, root.resolve())
        if key not in self._splits:
            if store is None:
                self._splits[key] = dataset.load(part=part, size=size, root=root)
            else:
                self._splits[key] = store.prepare(dataset, size, root=root, on_progress=on_progress).part(part)
        self._splits.move_to_end(key)
        decoded = self._splits[key]
        while len(self._splits) > 1 and self.n_bytes > self.max_bytes:
            self._splits.popitem(last=False)
        return decoded
