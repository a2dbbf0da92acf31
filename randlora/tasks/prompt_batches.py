"""Batches of prompts: sorted by length, padded on the left, halved where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from randlora.tasks.answers import Attention

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

PAD_ID = 0  # of tokenizers that have no padding token, as in the published scripts


class ScoresError(RuntimeError):
    """A model's scores are not finite, so that no answer can be read from them."""


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the tokens of each text with the special tokens that the tokenizer adds, never cut off.

    Raises:
        ValueError: if a text has no tokens.
    """
    found = [tuple(ids) for ids in tokenizer(list(texts)).input_ids] if texts else []
    for text, ids in zip(texts, found, strict=True):
        if not ids:
            raise ValueError(f"a prompt of no tokens: {text!r}; a model continues at least one")
    return found


def pad_id(tokenizer: Any) -> int:
    """Return the id that fills batches up, where it is masked: the tokenizer's, 0 where it has none."""
    return PAD_ID if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> tuple[tuple[int, ...], ...]:
    """Return the indices of all prompts in batches, longest first, so that too large a batch fails at once.

    Raises:
        ValueError: if the batch size is no whole number of 1 or more.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size = {batch_size!r}; valid: a whole number of 1 or more")
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return tuple(tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size))


def left_padded(
    sequences: Sequence[Sequence[int]], *, fill: int, attention: Attention, device: torch.device
) -> tuple[Int[Tensor, "n tokens"], Int[Tensor, "n tokens"]]:
    """Return the tokens of a batch filled up on the left, and the mask of what the model sees."""
    width = max(map(len, sequences))
    ids = torch.tensor([[fill] * (width - len(one)) + list(one) for one in sequences], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in sequences], device=device)
    return ids, mask if attention == "all" else mask * (ids != PAD_ID)


def positions(mask: Int[Tensor, "n tokens"]) -> Int[Tensor, "n tokens"]:
    """Return the position of every token among those that are seen, as transformers' ``generate`` counts them."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def check_finite(scores: Tensor) -> None:
    """Raise ScoresError unless all scores are finite."""
    if scores.isnan().any() or (scores == torch.inf).any():
        raise ScoresError("the model's scores are not finite; lower the learning rate or the scale")


def run_batches(
    batches: Sequence[Sequence[int]],
    compute: Callable[[Sequence[int]], None],
    *,
    done: Collection[int],
    on_halved: Callable[[int], None],
) -> None:
    """Compute every batch of which something is not done, in order; a batch that memory does not hold is halved.

    The batches after it have the size that went through. A batch of which only a part is done is computed again as a
    whole, so that what is computed together does not depend on where an earlier process stopped.

    Args:
        batches: indices of prompts.
        compute: what is done with the indices of a batch.
        done: indices that need not be computed.
        on_halved: told the new size.

    Raises:
        torch.OutOfMemoryError: if a single prompt does not fit.
    """
    most = max(map(len, batches), default=1)
    for batch in batches:
        if all(index in done for index in batch):
            continue
        start = 0
        while start < len(batch):
            part = batch[start : start + most]
            failed = False
            try:
                compute(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                failed = True  # the memory is free only once the exception is gone
            if failed:
                most = len(part) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                on_halved(most)
            else:
                start += len(part)
