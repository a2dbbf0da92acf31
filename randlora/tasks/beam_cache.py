"""Keys and values of a beam search: those of the prompt stay where they are, those of the beams grow in place.

The beams of a prompt continue the same tokens, so moving from beam to beam need not copy the prompt's keys and values,
which are most of them; and room for the new ones is kept, so that a step need not copy what is there.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor


class BeamLayer:
    """One layer's keys and values for ``beams`` continuations of every prompt, in the interface of transformers.

    Args:
        read: the layer after the prompts were read once; n rows.
        beams: continuations of each; rows of the same prompt stand together.
        room: tokens that may follow.
    """

    def __init__(self, read: Any, *, beams: int, room: int) -> None:
        self.prompt = read.keys.shape[-2]
        self.length = self.prompt
        self.roomy_keys = _with_room(read.keys, beams=beams, room=room)
        self.roomy_values = _with_room(read.values, beams=beams, room=room)
        self.dtype, self.device = read.keys.dtype, read.keys.device
        self.is_initialized = True
        self._show()

    def update(
        self, key_states: Float[Tensor, "rows heads new d"], value_states: Float[Tensor, "rows heads new d"], *_: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values behind those that are there, and return all."""
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.roomy_keys[:, :, start : self.length] = key_states
        self.roomy_values[:, :, start : self.length] = value_states
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Int[Tensor, " rows"]) -> None:
        """Let every row go on from another row of the same prompt."""
        for whole in (self.roomy_keys, self.roomy_values):
            grown = whole[:, :, self.prompt : self.length]
            grown.copy_(grown.index_select(0, beam_idx))

    def _show(self) -> None:
        self.keys = self.roomy_keys[:, :, : self.length]
        self.values = self.roomy_values[:, :, : self.length]


def share_prompt(read: Any, *, beams: int, room: int) -> Any:
    """Return a cache of prompts that were read once as one of ``beams`` rows for each.

    Layers that keep less than all tokens, such as those of a sliding window, are copied row by row instead.
    """
    growing, kind = _classes()
    for place, layer in enumerate(read.layers):
        if type(layer) is growing:
            read.layers[place] = kind(layer, beams=beams, room=room)
        else:
            layer.batch_repeat_interleave(beams)
    return read


def keeps_everything(config: Any) -> bool:
    """Return whether the cache of a model of this configuration keeps all tokens in every layer."""
    from transformers.cache_utils import DynamicCache

    return all(type(layer) is _classes()[0] for layer in DynamicCache(config=config).layers)


def join_padded(read: Sequence[tuple[Sequence[int], Any]], *, width: int) -> Any:
    """Return the cache of a batch whose rows were read apart, without padding.

    Args:
        read: caches, each with the rows of the batch that it holds; all layers keep all tokens.
        width: tokens of the joint cache. Shorter rows stand at its end, after zeros that the mask must hide.
    """
    rows = sum(len(places) for places, _ in read)
    joint = read[0][1]
    for place, layers in enumerate(zip(*(one.layers for _, one in read), strict=True)):
        for name in ("keys", "values"):
            parts = [getattr(layer, name) for layer in layers]
            whole = parts[0].new_zeros(rows, parts[0].shape[1], width, parts[0].shape[3])
            for (places, _), part in zip(read, parts, strict=True):
                whole[list(places), :, width - part.shape[2] :] = part
            setattr(joint.layers[place], name, whole)
    return joint


@cache
def _classes() -> tuple[type, type]:
    """Return transformers' layer that keeps all tokens, and the one for beams that inherits the rest from it."""
    from transformers.cache_utils import DynamicLayer

    return DynamicLayer, type("BeamLayer", (BeamLayer, DynamicLayer), {})


def _with_room(
    states: Float[Tensor, "n heads tokens d"], *, beams: int, room: int
) -> Float[Tensor, "rows heads more d"]:
    n, heads, tokens, width = states.shape
    whole = torch.empty(n * beams, heads, tokens + room, width, dtype=states.dtype, device=states.device)
    whole[:, :, :tokens] = states.repeat_interleave(beams, dim=0)
    return whole
