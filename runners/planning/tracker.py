"""Bytes that are alive and operations that are done while a step runs on tensors without memory."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward


class StepTracker(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its release. Enter it inside torch's fake mode.

    It sees what operations return; what a kernel takes for itself and gives back is not seen. Questions about values,
    which fake tensors do not have, are answered so that the shapes are those of a real step.

    Attributes:
        now: bytes alive.
        peaks: the most bytes alive in each section since :meth:`reset_peak`, in the order of their beginnings.
        products: operations of matrix products and convolutions.
        attention: operations of the attention kernel, which torch's counter has no formula for on a CPU.
        most_distinct: how many distinct values ``unique`` finds at most, such as the number of classes.
        asked_distinct: whether ``unique`` was asked.
    """

    def __init__(self, *, block: int, most_distinct: int, equal: Iterable[bool] = ()) -> None:
        """Start at nothing.

        Args:
            block: unit of the allocator, in bytes.
            most_distinct: see the attribute.
            equal: what ``torch.equal`` says, call after call.
        """
        super().__init__()
        self.now = self.products = self.attention = 0
        self.peaks: dict[Hashable, int] = {}
        self.most_distinct = most_distinct
        self.asked_distinct = False
        self._block = block
        self._equal: Iterator[bool] = iter(equal)
        self._alive: dict[int, int] = {}
        self._section: Hashable = None
        self.reset_peak()

    @property
    def peak(self) -> int:
        """The most bytes alive since :meth:`reset_peak`."""
        return max(self.peaks.values())

    @property
    def flops(self) -> int:
        """All operations counted."""
        return self.products + self.attention

    def reset_peak(self) -> None:
        """Start the peak anew."""
        self.peaks = {}
        self.begin(self._section)

    def begin(self, section: Hashable) -> None:
        """Begin a section of the step, or go on with one that has begun before."""
        self._section = section
        self.peaks[section] = max(self.peaks.get(section, 0), self.now)

    def bytes_of(self, tensors: Iterable[Tensor]) -> int:
        """Return the bytes of the distinct storages under tensors."""
        sizes = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
        return sum(map(self._rounded, sizes.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if func is aten.equal.default:
            return next(self._equal)
        run = self._distinct if func is aten._unique2.default else func
        result = run(*args, **kwargs)
        self._count(func, args, kwargs, result)
        if not func.is_view:
            for one in tree_leaves(result):
                if isinstance(one, Tensor):
                    self._follow(one)
        return result

    def _distinct(self, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
        self.asked_distinct = True
        found = min(values.numel(), self.most_distinct)
        return values.new_empty(found), torch.empty_like(values), values.new_empty(0)

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        packet = func.overloadpacket
        if packet is ATTENTION:
            self.attention += sdpa_flop_count(*(one.shape for one in args[:3]))
        elif packet is ATTENTION_BACKWARD:
            self.attention += sdpa_backward_flop_count(*(one.shape for one in args[:4]))
        elif packet in flop_registry:
            self.products += flop_registry[packet](*args, **kwargs, out_val=result)

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = self._alive[key] = self._rounded(storage.nbytes())
        self.now += size
        self.peaks[self._section] = max(self.peaks[self._section], self.now)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.now -= self._alive.pop(key)

    def _rounded(self, size: int) -> int:
        return -(-size // self._block) * self._block
