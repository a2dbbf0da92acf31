"""Checks of the adapters: what they grow from, their two forms, their gradients, the rank of their updates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from randlora.adapted_weight import AdaptedWeight
from randlora.adapter import Adapter, AdapterMethod, Contraction, Shared, Site, TwoFactorAdapter, UpdateAdapter
from randlora.audit.findings import Finding
from randlora.audit.memory import fits
from randlora.audit.subject import Fingerprint, Subject, difference, plain_name, representatives
from randlora.inject import Adaptation, fingerprint, owner_of

TOKENS = 64  # input rows on which the two forms are compared
NUDGE = 1e-5  # step of a finite difference; central, so that the error is of the order of its square
GRADIENT_TOLERANCE = 1e-6
BLOCK = 1024  # sides of the leading block of an update whose rank is measured
SMALLEST = 1e-10  # singular value, relative to the largest, that counts as not zero in float64
NO_ADAPTERS = "there are no adapters of this library"
TOO_LARGE = "no site is small enough for a copy in float64"
COPIES = 8  # matrices of a site's size that a check in float64 holds at once


def grown_from_seed(first: Fingerprint, second: Fingerprint, *, disturbed: bool) -> Finding:
    """What a method adds to the model, twice from one seed under other states of the global generator."""
    name = "grown_from_seed"
    other = sorted(tensor for tensor in first.keys() | second if first.get(tensor) != second.get(tensor))
    if other:
        detail = f"{len(other)} tensors differ under another global random state, among them '{plain_name(other[0])}'"
        return Finding(name=name, passed=False, detail=detail)
    if disturbed:
        return Finding(name=name, passed=False, detail="applying the method moves the global random generator")
    if not first:
        return Finding(name=name, passed=None, detail="nothing grows from the seed")
    return Finding(name=name, passed=True, detail=f"{len(first)} tensors bitwise the same from one seed")


def bases_kept_once(adaptation: Adaptation) -> Finding:
    """One store of frozen tensors for all sites, and no copies of it."""
    name = "bases_kept_once"
    holder: Shared | None = None
    seen: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for site, adapter in adaptation.adapters.items():
        for module in adapter.modules():
            if isinstance(module, Shared):
                if holder is not None and module is not holder:
                    detail = f"site '{site}' holds frozen tensors of its own, {_size(module.buffers())} of them"
                    return Finding(name=name, passed=False, detail=detail)
                holder = module
        for tensor, value in adapter.named_buffers():
            key = (tuple(value.shape), *fingerprint(iter([("", value)]))[""]) if value.numel() > 1 else (id(value),)
            other, same = seen.setdefault(key, (site, value))
            if same.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
                detail = f"site '{site}' holds a copy of '{tensor}' of site '{other}', {_size(iter([value]))} each"
                return Finding(name=name, passed=False, detail=detail)
    if not seen:
        return Finding(name=name, passed=None, detail="there are no frozen tensors beside the model's")
    stores = {value.untyped_storage().data_ptr(): value for _, value in seen.values()}
    detail = f"{_size(iter(stores.values()))} of frozen tensors for {len(adaptation.adapters)} sites"
    return Finding(name=name, passed=True, detail=detail)


def forms_agree(subject: Subject, adaptation: Adaptation) -> Finding:
    """Activation form against weight form on one site of each shape that can run in both."""
    name = "forms_agree"
    both = [s for s in adaptation.sites if s.linear and isinstance(adaptation.adapters.get(s.name), TwoFactorAdapter)]
    if not both:
        return Finding(name=name, passed=None, detail="no site can run in activation form")
    worst = 0.0
    subject.model.eval()
    for site in representatives(tuple(both)):
        owner, tensor = owner_of(adaptation.model, site.name)
        weight = owner.get_submodule(f"parametrizations.{tensor}.0")
        assert isinstance(weight, AdaptedWeight)
        x = torch.randn(TOKENS, site.in_features, generator=torch.Generator().manual_seed(subject.seed))
        x = x.to(subject.parameters[site.name])
        gap = difference(_in_form("activation", weight, owner, x), _in_form("weight", weight, owner, x))
        if gap > subject.tolerance:
            detail = f"site '{site.name}': the forms differ by {gap:.1e}, allowed {subject.tolerance:.0e}"
            return Finding(name=name, passed=False, detail=detail)
        worst = max(worst, gap)
    shapes = _sites(len(representatives(tuple(both))))
    detail = f"outputs of {shapes} differ by {worst:.1e}, allowed {subject.tolerance:.0e}"
    return Finding(name=name, passed=True, detail=detail)


@torch.no_grad()
def _in_form(form: Contraction, weight: AdaptedWeight, layer: nn.Module, x: Tensor) -> Tensor:
    kept, weight.contraction = weight.contraction, form
    try:
        return layer(x)
    finally:
        weight.contraction = kept


def gradients_exact(subject: Subject, adaptation: Adaptation) -> Finding:
    """Gradients against finite differences along random ways, in float64 on one site of each shape."""
    name = "gradients_exact"
    if not isinstance(subject.method, AdapterMethod):
        return Finding(name=name, passed=None, detail=NO_ADAPTERS)
    if not subject.method.exact_gradient:
        detail = "the backward pass leaves out a part of the derivative by choice"
        return Finding(name=name, passed=None, detail=detail)
    worst, shapes = 0.0, 0
    for site, adapter, weight in _in_float64(subject, adaptation):
        for tensor, slope, numeric, gap in _slopes(adapter, weight):
            if not gap <= GRADIENT_TOLERANCE:
                detail = f"site '{site.name}': '{tensor}' has slope {slope:.6g}, by finite differences {numeric:.6g}"
                return Finding(name=name, passed=False, detail=detail)
            worst = max(worst, gap)
        shapes += 1
    allowed = f"differ from finite differences by {worst:.1e}, allowed {GRADIENT_TOLERANCE:.0e}"
    return Finding(name=name, passed=True if shapes else None, detail=f"gradients of {_sites(shapes)} {allowed}")


def update_rank(subject: Subject, adaptation: Adaptation) -> Finding:
    """Rank of the update, with random numbers in the place of the trained ones, against what the method claims."""
    name, method = "update_rank", subject.method
    if not isinstance(method, AdapterMethod):
        return Finding(name=name, passed=None, detail=NO_ADAPTERS)
    if all(method.update_rank(site) is None for site in adaptation.sites):
        return Finding(name=name, passed=None, detail="the method claims no rank")
    seen: list[str] = []
    for site, adapter, weight in _in_float64(subject, adaptation):
        if (claim := method.update_rank(site)) is None:
            continue
        found, block, shape = _rank(adapter, weight)
        most = min(claim, *block)
        part = f" in its first {_by(block)} entries" if block != shape else ""
        bound = "claimed" if method.reaches_update_rank else "claimed at most"
        text = f"{_by(shape)}{part}: {found:,}, {bound} {most:,}"
        if found > most or (found < most and method.reaches_update_rank):
            return Finding(name=name, passed=False, detail=f"site '{site.name}', {text}")
        seen.append(text)
    return Finding(name=name, passed=True if seen else None, detail="; ".join(dict.fromkeys(seen)) or TOO_LARGE)


def _in_float64(subject: Subject, adaptation: Adaptation) -> Iterator[tuple[Site, Adapter, Tensor]]:
    """Yield copies of one adapter of each shape, with random numbers for the trained ones, and their base weights.

    Sites that would need more memory than is free are left out.
    """
    for site in representatives(adaptation.sites):
        if not fits(COPIES * 8 * site.out_features * site.in_features, subject.device):
            continue
        adapter = copy.deepcopy(adaptation.adapters[site.name]).to(torch.float64)
        generator = torch.Generator().manual_seed(subject.seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        weight = subject.parameters[site.name].detach()
        yield site, adapter, (weight.T if site.transposed else weight).double()


def _slopes(adapter: Adapter, weight: Tensor) -> Iterator[tuple[str, float, float, float]]:
    """Yield per trained tensor its slope along a random way, by gradient and by finite difference, and their gap."""
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)

    def value() -> Tensor:
        return (adapter.adapted(weight) * direction).sum()

    named = {name: parameter for name, parameter in adapter.named_parameters() if parameter.requires_grad}
    for (name, parameter), gradient in zip(
        named.items(), torch.autograd.grad(value(), list(named.values()), allow_unused=True), strict=True
    ):
        analytic = torch.zeros_like(parameter) if gradient is None else gradient
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        slope, numeric = float((analytic * way).sum()), _finite_difference(value, parameter, way)
        # what a slope along a random way is like, so that one that happens to be near zero is no reason to fail
        typical = max(float(analytic.norm() * way.norm()) / math.sqrt(way.numel()), abs(numeric), 1e-30)
        yield name, slope, numeric, abs(slope - numeric) / typical


@torch.no_grad()
def _finite_difference(value: Callable[[], Tensor], parameter: Tensor, way: Tensor) -> float:
    start = parameter.clone()
    ends = []
    for sign in (1, -1):
        parameter.copy_(start + sign * NUDGE * way)
        ends.append(float(value()))
    parameter.copy_(start)
    return (ends[0] - ends[1]) / (2 * NUDGE)


@torch.no_grad()
def _rank(adapter: Adapter, weight: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Return the rank of the leading block of an update, the block's shape, and the update's."""
    update = adapter.delta() if isinstance(adapter, UpdateAdapter) else adapter.adapted(weight) - weight
    block = update[:BLOCK, :BLOCK]
    values = torch.linalg.svdvals(block)
    return int((values > SMALLEST * values[0]).sum()), tuple(block.shape), tuple(update.shape)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in shape)


def _sites(count: int) -> str:
    return f"{count} sites, one of each shape," if count != 1 else "1 site"


def _size(tensors: Iterator[Tensor]) -> str:
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 / 10 else f"{size:,} bytes"
