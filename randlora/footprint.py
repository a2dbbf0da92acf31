"""What the update of one site takes in a training step: operations and bytes, found without making any tensor.

The adapter is made and run under torch's fake tensors, which have shapes and no values: any adapter, at any size, in
milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from randlora.activation_form import update_on_activations
from randlora.adapter import Adapter, AdapterMethod, Site, TwoFactorAdapter, TwoFactorMethod, product_dtype
from randlora.contraction import Widths, multiply_adds, runs_on_activations
from randlora.shared import Shared

Precision = Literal["float32", "bfloat16_autocast", "bfloat16_weights"]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What the update of one site adds to a step of the frozen layer.

    Attributes:
        update_operations: floating-point operations of the matrix products that form or apply the update, forward and
            backward; two per multiply-add.
        weight_operations: those of the gradient of the adapted weight (weight form).
        traffic_bytes: read and written by all operations of the update, matrix products included.
        calls: operations started.
        input_bytes: of the site's input, where its gradients need it.
        weight_bytes: of the adapted weight, where it is kept for the backward pass.
        factor_bytes: of all else that is kept for the backward pass.
        trained: numbers trained.
        tensors: trained tensors.
    """

    update_operations: int
    weight_operations: int
    traffic_bytes: int
    calls: int
    input_bytes: int
    weight_bytes: int
    factor_bytes: int
    trained: int
    tensors: int


def shared_shapes(method: AdapterMethod, sites: Sequence[Site]) -> Shared | None:
    """Return the method's shared tensors as shapes, to hand to :func:`footprint_of`."""
    with FakeTensorMode():
        return method.shared(sites, 0)


def footprint_of(
    method: AdapterMethod, site: Site, *, shared: Shared | None, rows: int, precision: Precision, rebuilt: bool = False
) -> Footprint:
    """Return what the method's update of a site adds to a training step.

    Args:
        method: the method.
        site: one that fits it.
        shared: of :func:`shared_shapes`, from all sites of the model.
        rows: number of input rows that the site's weight is applied to in the step.
        precision: of the step; see `runners/benchmark/cases.py`.
        rebuilt: the adapted weight is made again in the backward pass instead of kept.
    """
    with ExitStack() as stack:
        mode = next((one.fake_mode for one in _buffers(shared)), None) or FakeTensorMode()
        stack.enter_context(mode)
        dtype = torch.bfloat16 if precision == "bfloat16_weights" else torch.float32
        adapter = method.adapt(site, shared, torch.Generator())
        weight = torch.empty(site.out_features, site.in_features, dtype=dtype)
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16_autocast"))
        width = product_dtype(weight).itemsize
        widths = Widths.of(adapter) if isinstance(adapter, TwoFactorAdapter) else None
        probe = _Probe(known=[weight, *adapter.parameters()], shared=shared)
        if _form(method, site, widths, rows) == "activation":
            assert isinstance(adapter, TwoFactorAdapter)
            assert widths is not None
            return _on_activations(adapter, site, widths, rows=rows, dtype=product_dtype(weight), probe=probe)
        again = probe.run_weight(adapter, weight)
        area = site.out_features * site.in_features
        weight_operations = 2 * rows * area
        operations = probe.operations
        if widths is not None:
            operations = 2 * multiply_adds(site, widths, tokens=rows, training=True)[1] - weight_operations
        if rebuilt:
            operations += again.operations
        return Footprint(
            update_operations=operations,
            weight_operations=weight_operations,
            traffic_bytes=probe.traffic + rebuilt * again.traffic,
            calls=probe.calls + rebuilt * again.calls,
            input_bytes=rows * site.in_features * width,
            weight_bytes=0 if rebuilt else area * width,
            factor_bytes=probe.kept_bytes(),
            **_trained(adapter),
        )


def _on_activations(
    adapter: TwoFactorAdapter, site: Site, widths: Widths, *, rows: int, dtype: torch.dtype, probe: _Probe
) -> Footprint:
    x = torch.empty(rows, site.in_features, dtype=dtype, requires_grad=True)
    output = torch.empty(rows, site.out_features, dtype=dtype, requires_grad=True)
    probe.known.append(x)
    with probe:
        update = output + update_on_activations(x, adapter, dtype)
        update.backward(torch.empty_like(update))
    return Footprint(
        update_operations=2 * multiply_adds(site, widths, tokens=rows, training=True)[0],
        weight_operations=0,
        traffic_bytes=probe.traffic,
        calls=probe.calls,
        input_bytes=rows * site.in_features * dtype.itemsize if widths.right_trains else 0,
        weight_bytes=0,
        factor_bytes=probe.kept_bytes(),
        **_trained(adapter),
    )


def _form(method: AdapterMethod, site: Site, widths: Widths | None, rows: int) -> str:
    """Return the form that :class:`randlora.adapted_weight.AdaptedWeight` takes in a training step."""
    if not isinstance(method, TwoFactorMethod) or widths is None or not site.linear:
        return "weight"
    if method.contraction != "auto":
        return method.contraction
    return "activation" if runs_on_activations(site, widths, tokens=rows, training=True) else "weight"


def _trained(adapter: Adapter) -> Mapping[str, int]:
    parameters = list(adapter.parameters())
    return {"trained": sum(one.numel() for one in parameters), "tensors": len(parameters)}


def _buffers(shared: Shared | None) -> list[Any]:
    return [] if shared is None else [*shared.buffers(), *shared.low_copies()]


@dataclass(frozen=True)
class _Counts:
    operations: int
    traffic: int
    calls: int


class _Probe(TorchDispatchMode):
    """Counts what runs while it is entered, and remembers what autograd keeps."""

    def __init__(self, *, known: list[Tensor], shared: Shared | None) -> None:
        super().__init__()
        self.known = known
        self.shared = shared
        self.operations = self.traffic = self.calls = 0
        self._kept: dict[int, Tensor] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def run_weight(self, adapter: Adapter, weight: Tensor) -> _Counts:
        """Form the adapted weight and take its gradient back; return the counts of the forming alone."""
        with self:
            adapted = adapter.adapted(weight)
            forward = _Counts(self.operations, self.traffic, self.calls)
            adapted.backward(torch.empty_like(adapted))
        return forward

    def kept_bytes(self) -> int:
        """Return the bytes kept beyond the parameters, the shared tensors, the weight and the input."""
        known = {tensor.untyped_storage()._cdata for tensor in [*self.known, *_buffers(self.shared)]}
        return sum(one.untyped_storage().nbytes() for key, one in self._kept.items() if key not in known)

    def __enter__(self) -> _Probe:
        self._hooks.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls += 1
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        if not func.is_view:
            self.traffic += sum(_bytes(one) for one in tree_leaves((args, kwargs, result)))
        return result

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept[tensor.untyped_storage()._cdata] = tensor
        return tensor


def _bytes(value: Any) -> int:
    return math.prod(value.shape) * value.element_size() if isinstance(value, Tensor) else 0
