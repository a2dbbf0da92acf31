"""Forgetting tensors between forward and backward pass that the backward pass can compute again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Recipe = Callable[[], Tensor]
_local = threading.local()


@dataclass(frozen=True)
class _Forgotten:
    """A view of a storage that its recipe fills again."""

    recipe: Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class RebuildScope:
    """While open, autograd keeps the recipe of an offered tensor in the place of the tensor, whatever view it saves.

    Autograd shows a saved tensor to the innermost hooks only. Where somebody else's are active (activation
    checkpointing, offloading), a scope stays closed and tensors are kept: those hooks have a plan of their own.
    """

    def __init__(self) -> None:
        self._offered: dict[int, tuple[Tensor, Recipe]] = {}
        self._hooks: torch.autograd.graph.saved_tensors_hooks | None = None
        self._outer: RebuildScope | None = None
        self._openings = 0

    def open(self) -> None:
        """Start to forget offered tensors, where gradients are recorded and no other hooks are active.

        Each opening needs its closing; the sites that one module reads share a scope.
        """
        self._openings += 1
        if self._openings > 1 or not torch.is_grad_enabled() or _others_hook():
            return
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        self._outer, _local.scope = getattr(_local, "scope", None), self

    def close(self) -> None:
        """End one opening; with the last, nothing more is forgotten. What autograd has saved stays forgotten."""
        self._openings -= 1
        if self._openings or self._hooks is None:
            return
        _local.scope, self._outer = self._outer, None
        self._hooks.__exit__()
        self._hooks = None
        self._offered.clear()

    def take(self, tensor: Tensor, recipe: Recipe) -> None:
        """Forget the tensor when autograd saves it; it must be alone in its storage."""
        # by the storage and not by its memory, which fake tensors do not have; the tensor itself is held as well: its
        # place must not go to another one while the scope is open
        self._offered[tensor.untyped_storage()._cdata] = (tensor, recipe)

    def recipe_of(self, tensor: Tensor) -> Recipe | None:
        """Return the recipe of a tensor offered to this scope or one around it, or None."""
        offered = self._offered.get(tensor.untyped_storage()._cdata)
        if offered is not None:
            return offered[1]
        return None if self._outer is None else self._outer.recipe_of(tensor)

    def _pack(self, tensor: Tensor) -> Any:
        recipe = self.recipe_of(tensor)
        if recipe is None:
            return tensor
        return _Forgotten(recipe, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def _unpack(self, saved: Any) -> Tensor:
        if not isinstance(saved, _Forgotten):
            return saved
        with torch.no_grad():
            return saved.recipe().as_strided(saved.size, saved.stride, saved.offset)


def offer(tensor: Tensor, recipe: Recipe) -> Tensor:
    """Let autograd forget the tensor, if a scope is open, and return it.

    Args:
        tensor: alone in its storage.
        recipe: computes it again, bit for bit and in the same layout.
    """
    scope = _open_scope()
    if scope is not None:
        scope.take(tensor, recipe)
    return tensor


def offer_from(source: Tensor, tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Offer a tensor made by ``change`` from one that was offered; without effect where the source was not."""
    scope = _open_scope()
    recipe = None if scope is None else scope.recipe_of(source)
    if scope is not None and recipe is not None and tensor is not source:
        again = recipe
        size, stride, offset = source.size(), source.stride(), int(source.storage_offset())
        scope.take(tensor, lambda: change(again().as_strided(size, stride, offset)))
    return tensor


def _open_scope() -> RebuildScope | None:
    # a compiled model has its own plan of what to compute twice
    return None if torch.compiler.is_compiling() else getattr(_local, "scope", None)


def _others_hook() -> bool:
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return top is not None and not isinstance(getattr(top[0], "__self__", None), RebuildScope)
