"""The parametrization of one site: what its module reads in the place of the base weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from randlora.activation_form import update_on_activations
from randlora.adapter import Adapter, Contraction, Site, TwoFactorAdapter, UpdateAdapter, product_dtype
from randlora.contraction import Widths, runs_on_activations
from randlora.execution import Execution
from randlora.packed import is_packed, unpacked
from randlora.rebuild import RebuildScope, Recipe, offer

BESIDE = "adapted_weight"  # the name of an adapted weight in the layer of a packed one


class AdaptedWeight(nn.Module):
    """Gives the reader of a site its adapted weight.

    During one forward of the reader the adapted weight is formed once and held (attention reads its weights up to five
    times). In activation form the reader sees its base weight and the update is added to the output.

    With ``dropout`` above 0 and in training mode the reader sees its base weight as well, and what the update does to
    an input with some of its numbers set to zero is added: ``y = W x + (W' - W) dropout(x)`` for any adapter, as peft
    does for LoRA and DoRA. It draws from torch's own generator.

    A ``packed`` weight (:mod:`randlora.packed`) is never replaced: its layer computes ``W x`` in its own way, and
    ``(W' - W) x`` is added for any adapter. This is then a child of the layer and no parametrization.
    """

    def __init__(self, adapter: Adapter, site: Site, contraction: Contraction, execution: Execution) -> None:
        super().__init__()
        self.adapter = adapter
        self.site = site
        self.contraction = contraction
        self.execution = execution
        self.packed = False
        self.dropout = 0.0
        self.scope: RebuildScope | None = None
        self.handles: tuple[RemovableHandle, ...] = ()
        self._widths: Widths | None = None
        self._inside = False
        self._on_activations = False
        self._held: Tensor | None = None
        self._step: _Step | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight in the layout of ``weight``."""
        if self._on_activations:
            return weight
        if not self._inside:
            # not for a product of the reader, but somebody's look at the weight, such as at its dtype
            with torch.autocast(weight.device.type, enabled=False):
                return self._form(weight)
        if self._step is not None and torch.is_grad_enabled():
            return self._step.leaf(lambda: self._form(weight))
        if self._held is None:
            self._held = self._form(weight)
            if self.scope is not None and self.execution.adapted_weights == "rebuild":
                offer(self._held, self._recipe(weight))
        return self._held

    def enter(self, reader: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Start one forward of the reader (forward pre-hook)."""
        self._inside, self._held, self._on_activations = True, None, False
        if inputs and isinstance(inputs[0], Tensor):
            self._on_activations = self._prefers_activations(inputs[0])
        elif self.packed:
            self._inside = False
            raise ValueError(f"the layer of '{self.site.name}' is quantised and adapted: give its input by position")
        if self.scope is not None and not torch.compiler.is_compiling():
            self.scope.open()

    def leave(self, reader: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """End one forward of the reader (forward hook, also called when it raises)."""
        on_activations = self._on_activations
        self._inside, self._held, self._on_activations = False, None, False
        try:
            if not on_activations or output is None:
                return None
            if self._drops():
                return output + self._on(nn.functional.dropout(inputs[0], self.dropout), reader)
            return output + self._on(inputs[0], reader)
        finally:
            if self.scope is not None and not torch.compiler.is_compiling():
                self.scope.close()

    def begin_step(self) -> None:
        """Form the adapted weight once from here on, and gather its gradient, until :meth:`end_step`."""
        self._step = _Step()

    def end_step(self) -> None:
        """Take the gathered gradient to the trainable tensors."""
        step, self._step = self._step, None
        if step is not None:
            step.finish()

    def _form(self, weight: Tensor) -> Tensor:
        if self.site.transposed:
            # in the layout of the base weight: the last bits of the reader's product depend on it
            return self.adapter.adapted(weight.T).T.contiguous()
        return self.adapter.adapted(weight)

    def _recipe(self, weight: Tensor) -> Recipe:
        kind = weight.device.type
        lowered, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        trained = list(self.adapter.parameters())
        versions = [parameter._version for parameter in trained]

        def rebuild() -> Tensor:
            if versions != [parameter._version for parameter in trained]:
                raise RuntimeError(
                    f"the adapter of '{self.site.name}' was changed between forward and backward pass; "
                    "run the backward pass before the optimizer step, or use adapted_weights='keep'"
                )
            with torch.autocast(kind, dtype=dtype, enabled=lowered):
                return self._form(weight)

        return rebuild

    def _drops(self) -> bool:
        return self.dropout > 0 and self.training

    def _on(self, x: Tensor, reader: nn.Module) -> Tensor:
        """Return what the update adds to the output for an input."""
        dtype = product_dtype(x)
        if isinstance(self.adapter, TwoFactorAdapter):
            return update_on_activations(x, self.adapter, dtype)
        if isinstance(self.adapter, UpdateAdapter):
            change = self.adapter.delta()
        else:
            weight = base_weight(reader, self.site)
            change = self.adapter.adapted(weight) - weight
        return nn.functional.linear(x.to(dtype), change.to(dtype))

    def _prefers_activations(self, x: Tensor) -> bool:
        if self.packed or self._drops():
            return True
        if not (isinstance(self.adapter, TwoFactorAdapter) and self.site.linear) or self.contraction == "weight":
            return False
        if self.contraction == "activation":
            return True
        if self._step is not None:
            return False
        if self._widths is None:
            self._widths = Widths.of(self.adapter)
        return runs_on_activations(
            self.site, self._widths, tokens=x.numel() // x.shape[-1], training=torch.is_grad_enabled()
        )


def attach(owner: nn.Module, tensor: str, adapted: AdaptedWeight, *, packed: bool) -> None:
    """Put an adapted weight on the module that owns the base weight."""
    adapted.packed = packed
    if packed:
        owner.add_module(BESIDE, adapted)
    else:
        parametrize.register_parametrization(owner, tensor, adapted, unsafe=True)


def attached(owner: nn.Module, tensor: str) -> AdaptedWeight | None:
    """Return the adapted weight of a module, or None where there is none."""
    found = getattr(owner, BESIDE, None)
    if found is None and parametrize.is_parametrized(owner, tensor):
        found = owner.get_submodule(f"parametrizations.{tensor}.0")
    return found if isinstance(found, AdaptedWeight) else None


def detach(owner: nn.Module, tensor: str) -> None:
    """Take the adapted weight of a module out again; the base weight is what it was."""
    adapted = attached(owner, tensor)
    assert adapted is not None
    for handle in adapted.handles:
        handle.remove()
    if adapted.packed:
        delattr(owner, BESIDE)
    else:
        parametrize.remove_parametrizations(owner, tensor, leave_parametrized=False)


def base_weight(owner: nn.Module, site: Site) -> Tensor:
    """Return the base weight of a site as out x in, whether adapted or not; a packed one as an unpacked copy."""
    tensor = site.name.rpartition(".")[2]
    if parametrize.is_parametrized(owner, tensor):
        weight = owner.get_parameter(f"parametrizations.{tensor}.original")
    else:
        weight = owner.get_parameter(tensor)
    if is_packed(owner, weight):
        return unpacked(owner, weight)
    return weight.T if site.transposed else weight


class _Step:
    """One adapted weight over several forward and backward passes."""

    def __init__(self) -> None:
        self._formed: Tensor | None = None
        self._leaf: Tensor | None = None
        self._gradient: Tensor | None = None

    def leaf(self, form: Any) -> Tensor:
        if self._leaf is None:
            self._formed = form()
            self._leaf = self._formed.detach().requires_grad_()
            self._leaf.register_post_accumulate_grad_hook(self._gather)
        return self._leaf

    def finish(self) -> None:
        if self._formed is not None and self._gradient is not None:
            torch.autograd.backward(self._formed, self._gradient.to(self._formed.dtype))

    def _gather(self, leaf: Tensor) -> None:
        assert leaf.grad is not None
        # sums over many micro-batches need more than the eight bits of bfloat16
        gradient = leaf.grad if leaf.grad.dtype == torch.float64 else leaf.grad.float()
        self._gradient = gradient if self._gradient is None else self._gradient.add_(gradient)
        leaf.grad = None
