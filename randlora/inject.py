"""Putting adapters into a model and taking them out again: freeze, inject, merge, count, fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from randlora.adapted_weight import AdaptedWeight, attach, attached, base_weight, detach
from randlora.adapter import Adapter, AdapterMethod, Contraction, Method, Shared, Site, TwoFactorMethod
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.packed import check_packed, is_packed
from randlora.rebuild import RebuildScope
from randlora.seeds import generator_for, seed_for


@dataclass(kw_only=True)
class Adaptation:
    """A model made ready for fine-tuning by one method.

    Attributes:
        model: the model, frozen but for what the method trains.
        method: the method.
        seed: the seed its frozen tensors and starts grew from.
        sites: the adapted sites; empty for methods without adapters.
        adapters: one adapter per site name.
        scope: trained parameters of the backbone itself, by name (full fine-tuning).
    """

    model: nn.Module
    method: Method
    seed: int
    sites: tuple[Site, ...]
    adapters: Mapping[str, Adapter]
    scope: Mapping[str, nn.Parameter]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters, named ``<site>:<tensor>`` for adapters."""
        named = {
            f"{site}:{name}": parameter
            for site, adapter in self.adapters.items()
            for name, parameter in adapter.named_parameters()
        }
        return {**named, **self.scope}

    def n_trainable(self) -> int:
        """Count the trainable parameters as they are."""
        return sum(parameter.numel() for parameter in self.trainable().values())

    def frozen(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and value of each tensor that must not change, shared bases included."""
        trained = {id(parameter) for parameter in self.trainable().values()}
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in trained and not parameter.requires_grad:
                yield name, parameter
        yield from self.model.named_buffers()

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Surround the forward and backward passes of one optimizer step, for ``Execution.accumulate`` to take effect.

        Without it, or with methods that have no adapters, this does nothing.
        """
        weights = [weight for weight in self._weights() if weight.execution.accumulate]
        for weight in weights:
            weight.begin_step()
        try:
            yield
        finally:
            for weight in weights:
                weight.end_step()

    def drop_inputs(self, probability: float) -> None:
        """Set the inputs of adapters to zero with a probability, in training mode; methods without adapters ignore it.

        Raises:
            ValueError: naming the site, where the module that reads a weight does more than apply it to one input.
        """
        for weight in self._weights():
            if probability > 0 and not weight.site.linear:
                raise ValueError(
                    f"site '{weight.site.name}' is read by its attention module directly, so its adapter has no input "
                    "of its own to drop; set the dropout to 0"
                )
            weight.dropout = probability

    def merge(self) -> nn.Module:
        """Write every adapted weight into the model, remove the adapters, and return the model.

        Adapters of packed weights stay, with their sites: packing the sum again would change it, and in floating point
        the layer would compute something else than in training. Merge them by loading the saved adapter into the model
        in floating point.
        """
        kept = tuple(weight.site for weight in self._weights() if weight.packed)
        for site in (site for site in self.sites if site not in kept):
            owner, tensor = owner_of(self.model, site.name)
            weight = getattr(owner, tensor).detach().contiguous()
            detach(owner, tensor)
            # a new parameter: the old one may be tied to a module that is not adapted
            setattr(owner, tensor, nn.Parameter(weight, requires_grad=False))
        self.sites, self.adapters = kept, {site.name: self.adapters[site.name] for site in kept}
        return self.model

    def remove(self) -> nn.Module:
        """Take the adapters out, leave the base weights as they were, and return the model; it stays frozen."""
        for site in self.sites:
            detach(*owner_of(self.model, site.name))
        self.sites, self.adapters = (), {}
        return self.model

    def _weights(self) -> Iterator[AdaptedWeight]:
        for site in self.sites:
            adapted = attached(*owner_of(self.model, site.name))
            assert adapted is not None
            yield adapted


def freeze(model: nn.Module) -> None:
    """Make every parameter of the model untrainable."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def inject(
    model: nn.Module,
    *,
    method: AdapterMethod,
    sites: Sequence[Site],
    seed: int,
    execution: Execution = DEFAULT_EXECUTION,
) -> Adaptation:
    """Freeze the model and put one adapter of the method on each site.

    Base weights must be loaded before: injection renames them.

    Raises:
        ValueError: if there is no site; naming the site, if the rank does not fit it, its weight is not floating point
            or has no values yet, it is on another device than the others or mixes float64 with lower precision, it is
            adapted already, ``contraction='activation'`` is asked of a weight that its module does not apply itself, or
            ``'weight'`` of one that is packed.
    """
    if not sites:
        raise ValueError(f"{type(method).__name__}: there is no site to adapt; name weights in the backbone's targets")
    for site in sites:
        _check(model, method, site, first=sites[0])
    freeze(model)
    shared = method.shared(sites, seed_for(seed, "bases"))
    if shared is not None and execution.bases == "compact":
        shared.compact()
    adapters: dict[str, Adapter] = {}
    scopes: dict[nn.Module, RebuildScope] = {}
    for site in sites:
        owner, tensor = owner_of(model, site.name)
        weight = owner.get_parameter(tensor)
        adapter = method.adapt(site, shared, generator_for(seed, "start", site.name))
        adapters[site.name] = adapter
        form: Contraction = method.contraction if isinstance(method, TwoFactorMethod) else "weight"
        adapted = AdaptedWeight(adapter, site, form, execution)
        reader = _reader_of(model, site)
        if execution.adapted_weights == "rebuild" or execution.bases == "compact":
            adapted.scope = scopes.setdefault(reader, RebuildScope())
        _attach(owner, tensor, adapted, weight)
        adapted.handles = _hook(reader, adapted)
    return Adaptation(model=model, method=method, seed=seed, sites=tuple(sites), adapters=adapters, scope={})


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that owns a parameter and the parameter's own name."""
    path, _, tensor = name.rpartition(".")
    return model.get_submodule(path), tensor


def fingerprint(tensors: Iterator[tuple[str, Tensor]]) -> dict[str, tuple[int, int]]:
    """Return two 64-bit checksums per tensor, computed on its device; equal bits give equal checksums."""
    return {name: _checksums(tensor) for name, tensor in tensors}


def _checksums(tensor: Tensor) -> tuple[int, int]:
    raw = tensor.detach().contiguous().flatten()
    size = raw.element_size()
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    wide = torch.int64 if size == 8 else torch.int32
    length = 1 << (20 if raw.device.type == "cpu" else 24)  # on a CPU as much as its caches hold
    place = torch.arange(min(length, raw.numel()), dtype=wide, device=raw.device) * 2 + 1
    first = second = 0
    for number, start in enumerate(range(0, raw.numel(), length)):
        part = raw[start : start + length].view(integers).to(wide)
        first += int(part.sum(dtype=torch.int64))
        second += (2 * number + 1) * int((part * place[: len(part)]).sum(dtype=torch.int64))
    return first % 2**64, second % 2**64


def check_site(method: AdapterMethod, site: Site) -> None:
    """Raise ValueError, naming the site, where the method cannot adapt it: form or rank do not fit."""
    if isinstance(method, TwoFactorMethod) and method.contraction == "activation" and not site.linear:
        raise ValueError(
            f"site '{site.name}' is read by its attention module directly and cannot run in activation form; "
            "use contraction=auto or contraction=weight"
        )
    method.check_site(site)


def _check(model: nn.Module, method: AdapterMethod, site: Site, *, first: Site) -> None:
    owner, tensor = owner_of(model, site.name)
    if attached(owner, tensor) is not None or parametrize.is_parametrized(owner, tensor):
        raise ValueError(f"site '{site.name}' has an adapter already; merge it before injecting another")
    weight = owner.get_parameter(tensor)
    if is_packed(owner, weight):
        check_packed(method, f"the weight of site '{site.name}'")
    elif not weight.dtype.is_floating_point:
        raise ValueError(f"site '{site.name}' holds {weight.dtype}; an adapter needs a floating-point weight")
    if weight.is_meta:
        raise ValueError(f"site '{site.name}' has no values yet (meta device); load the weights before injecting")
    other_owner, other_tensor = owner_of(model, first.name)
    other = other_owner.get_parameter(other_tensor)
    if weight.device != other.device:
        raise ValueError(
            f"site '{site.name}' is on {weight.device} and '{first.name}' on {other.device}; adapters share "
            "their bases, so put the sites on one device"
        )
    if (weight.dtype == torch.float64) != (other.dtype == torch.float64):
        raise ValueError(
            f"site '{site.name}' holds {weight.dtype} and '{first.name}' {other.dtype}; adapters share their bases, so "
            "use float64 for all sites or for none"
        )
    check_site(method, site)


def _attach(owner: nn.Module, tensor: str, adapted: AdaptedWeight, weight: nn.Parameter) -> None:
    # float64 only for a float64 model: adapters of half-precision models train in float32
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    # what is in place already is left alone: torch's fake tensors, which `randlora plan` uses, cannot be moved
    if any(_differs(one, weight.device, dtype) for one in (*adapted.parameters(), *adapted.buffers())):
        adapted.to(device=weight.device, dtype=dtype)
    for module in adapted.modules():
        if isinstance(module, Shared):
            for buffer in module.buffers(recurse=False):
                buffer.requires_grad_(False)
    with torch.no_grad():
        adapted.adapter.start_from(base_weight(owner, adapted.site).detach())
    attach(owner, tensor, adapted, packed=is_packed(owner, weight))


def _differs(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> bool:
    return tensor.device != device or (tensor.is_floating_point() and tensor.dtype != dtype)


def _reader_of(model: nn.Module, site: Site) -> nn.Module:
    """Return the module whose forward reads the weight: its owner, or the attention around an output projection."""
    owner, _ = owner_of(model, site.name)
    if site.linear or isinstance(owner, nn.MultiheadAttention):
        return owner
    return model.get_submodule(".".join(site.name.split(".")[:-2]))


def _hook(reader: nn.Module, adapted: AdaptedWeight) -> tuple[RemovableHandle, RemovableHandle]:
    return (
        reader.register_forward_pre_hook(adapted.enter),
        reader.register_forward_hook(adapted.leave, always_call=True),
    )
