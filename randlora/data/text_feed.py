"""Tokenised texts as batches on the device: padded on the left, the padding masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from randlora.data.batches import BatchPlan
from randlora.data.encode import NO_LOSS, Example
from randlora.data.feed import Batches, Feed

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

MULTIPLE = 8  # lengths of batches are rounded up to it, as in the released code

TextBatch = tuple["Int64[Tensor, 'b t']", "Int64[Tensor, 'b t']", "Int64[Tensor, 'b t']"]


class TextFeed(Feed):
    """Training texts: batches of token ids, of the mask (0 where there is padding), and of targets, all b x t.

    The first token of a text has no target: nothing comes before it. (With padding on the left the released scripts
    take a loss of it as well, predicted from padding, so that a text's loss depends on the texts beside it.)

    Within a batch texts are in order of their length, so that micro-batches hold texts of about one length; each part
    of a batch still has the length of the longest text of all of it.

    Args:
        examples: the tokenised texts.
        padding: the token id to pad with; it is masked, so no number depends on it.
        side: where the padding goes.
        device: where batches go.
    """

    def __init__(self, examples: Sequence[Example], *, padding: int, side: str, device: torch.device) -> None:
        self.examples = examples
        self.padding = padding
        self.side = side
        self.device = device

    def __len__(self) -> int:
        """Return the number of training texts."""
        return len(self.examples)

    def batches(self, plan: BatchPlan, *, start: int, stop: int) -> Batches:
        """See :meth:`randlora.data.feed.Feed.batches`."""
        for step in range(start, stop):
            chosen = [self.examples[index] for index in plan.indices(step).tolist()]
            yield self.collate(sorted(chosen, key=lambda example: len(example.ids)))

    def collate(self, examples: Sequence[Example]) -> TextBatch:
        """Return texts as one batch."""
        longest = max(len(example.ids) for example in examples)
        length = -(-longest // MULTIPLE) * MULTIPLE
        shape = (len(examples), length)
        ids = torch.full(shape, self.padding)
        mask = torch.zeros(shape, dtype=torch.int64)
        targets = torch.full(shape, NO_LOSS)
        for row, example in enumerate(examples):
            size = len(example.ids)
            place = slice(length - size, length) if self.side == "left" else slice(size)
            ids[row, place] = torch.tensor(example.ids)
            mask[row, place] = 1
            targets[row, place] = torch.tensor((NO_LOSS, *example.targets[1:]))
        pinned = self.device.type == "cuda"
        ready = (side.pin_memory() if pinned else side for side in (ids, mask, targets))
        one, two, three = (side.to(self.device, non_blocking=True) for side in ready)
        return one, two, three
