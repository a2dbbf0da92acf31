"""Checks of what comes out: the saved adapter, the reloaded one, the merged model, and the model without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from randlora.adapter import Site
from randlora.audit.findings import Finding
from randlora.audit.memory import CPU, fits
from randlora.audit.subject import Subject, difference, layout_of, plain_name, representatives
from randlora.inject import Adaptation, fingerprint
from randlora.storage import METHOD_ROOM, StorageError, load_adapter, save_adapter

HEADER = 16 * 1024  # bytes that a saved adapter may have beside its numbers
ENTRY = 128  # and for each tensor that is not packed with others: its name, shape and place
LARGEST_FILE = 1 << 30
MERGED = ("merged_as_adapted", "merge_leaves_nothing")

Application = Callable[[], AbstractContextManager[Adaptation]]


def saves_trained_only(adaptation: Adaptation, path: Path, *, may_load: bool = True) -> Finding:
    """The file and the state of every adapter hold trained numbers only.

    Args:
        adaptation: the method in the model.
        path: where the file goes, for :func:`loaded`.
        may_load: whether there is memory to undo what loading the file changes; without, none is written.
    """
    name = "saves_trained_only"
    if not adaptation.trainable():
        return Finding(name=name, passed=None, detail="nothing is trained, so nothing is saved")
    trained = [parameter for parameter in adaptation.trainable().values() if parameter.requires_grad]
    expected, weight = sum(one.numel() for one in trained), _bytes(trained)
    if not may_load or weight > LARGEST_FILE or not fits(3 * weight, CPU):
        detail = f"a file of {weight / 2**30:.1f} GiB is more than an audit writes"
        return Finding(name=name, passed=None, detail=detail)
    try:
        size = save_adapter(path, adaptation)
        held = _numbers_in(path)
    except StorageError as error:
        return Finding(name=name, passed=False, detail=str(error))
    except ImportError:
        return Finding(name=name, passed=None, detail="saving needs safetensors: pip install 'randlora[storage]'")
    for site, adapter in adaptation.adapters.items():
        for tensor, value in adapter.state_dict(keep_vars=True).items():
            if not value.requires_grad:
                detail = f"site '{site}' keeps '{tensor}' in its state, {value.numel():,} numbers that are not trained"
                return Finding(name=name, passed=False, detail=detail)
    apart = () if adaptation.adapters else adaptation.trainable()
    allowed = HEADER + sum(len(tensor) + ENTRY for tensor in apart)
    detail = f"{held:,} numbers for {expected:,} trained, {size - weight:,} bytes beside them, allowed {allowed:,}"
    return Finding(name=name, passed=held == expected and size <= weight + allowed, detail=detail)


def reloads_bitwise(subject: Subject, path: Path, expected: Tensor) -> Finding:
    """A saved adapter put into the model as it was gives bitwise the outputs it was saved with."""
    name = "reloads_bitwise"
    if not path.is_file():
        return Finding(name=name, passed=None, detail="there is no saved adapter to load")
    if not type(subject.method).__module__.startswith(METHOD_ROOM):
        detail = f"{type(subject.method).__name__} is no class of {METHOD_ROOM}*, where saved adapters are looked up"
        return Finding(name=name, passed=None, detail=detail)
    try:
        with loaded(subject, path):
            found = subject.outputs()
    except StorageError as error:
        return Finding(name=name, passed=False, detail=str(error))
    if torch.equal(found, expected):
        return Finding(name=name, passed=True, detail="outputs bitwise equal after saving and loading")
    detail = f"outputs differ by {difference(found, expected):.1e} after loading, allowed 0"
    return Finding(name=name, passed=False, detail=detail)


@contextmanager
def loaded(subject: Subject, path: Path) -> Iterator[Adaptation]:
    """Put a saved adapter into the model, and take it out at the end of the block."""
    adaptation, _ = load_adapter(path, subject.model)
    with subject.taken_out(adaptation):
        yield adaptation


@contextmanager
def regrown(subject: Subject, values: Mapping[str, Tensor]) -> Iterator[Adaptation]:
    """Apply the method anew and give it trained numbers."""
    with subject.adapted() as adaptation:
        with torch.no_grad():
            for name, parameter in adaptation.trainable().items():
                parameter.copy_(values[name])
        yield adaptation


def merging(subject: Subject, adapted: Application, base: Tensor) -> list[Finding]:
    """Outputs after a merge against those before, and what a merge leaves behind; undoes the merge."""
    weights = list(subject.model.parameters())
    with adapted() as adaptation:
        in_place = type(adaptation).merge is not Adaptation.merge
        if in_place and not fits(_bytes(weights), CPU):
            return not_merged("undoing its merge needs a copy of the model, for which there is no memory")
        kept = [parameter.detach().to("cpu", copy=True) for parameter in weights] if in_place else []
        sites = _mergeable(subject, adaptation)
        before = subject.outputs()
        _merge(adaptation, sites)
        after = subject.outputs()
        if adaptation.sites:
            adaptation.remove()  # those for which there was no memory
        layout = layout_of(subject.model)
        subject.put_back()
        with torch.no_grad():
            for parameter, value in zip(weights, kept, strict=False):
                parameter.copy_(value)
    gap, effect = difference(after, before), difference(before, base)
    detail = f"outputs differ by {gap:.1e}, allowed {subject.tolerance:.0e}; the update changes them by {effect:.1e}"
    if len(sites) < len(subject.targets.sites) and not in_place:
        detail += f"; {len(sites)} sites alone, one of each shape: there is no memory for all"
    if gap > subject.tolerance and not in_place:
        detail += _first_that_differs(subject, adapted, before, sites)
    left = sorted(name for name in subject.layout.keys() | layout if subject.layout.get(name) != layout.get(name))
    clean = f"{len(left)} parts are not as before, among them {plain_name(left[0])}" if left else "a plain model again"
    return [
        Finding(name=MERGED[0], passed=gap <= subject.tolerance, detail=detail),
        Finding(name=MERGED[1], passed=not left, detail=clean),
    ]


def not_merged(reason: str) -> list[Finding]:
    """Return both findings of a merge that did not take place."""
    return [Finding(name=name, passed=None, detail=reason) for name in MERGED]


def model_restored(subject: Subject) -> Finding:
    """The model after everything against the model before, bit for bit."""
    name = "model_restored"
    before = {**subject.layout, **subject.before}
    after = {**layout_of(subject.model), **fingerprint(subject.tensors())}
    changed = sorted(part for part in before.keys() | after if before.get(part) != after.get(part))
    if changed:
        detail = f"{plain_name(changed[0])} is not what it was before the adapters came and went"
        return Finding(name=name, passed=False, detail=detail)
    return Finding(name=name, passed=True, detail=f"{len(subject.before)} tensors bitwise as before the audit")


def _mergeable(subject: Subject, adaptation: Adaptation) -> tuple[Site, ...]:
    """Return all sites, or one of each kind and shape where two copies of all their weights do not fit."""
    needed = _bytes([subject.parameters[site.name] for site in adaptation.sites])
    return adaptation.sites if fits(needed, subject.device) else tuple(representatives(adaptation.sites))


def _merge(adaptation: Adaptation, sites: tuple[Site, ...]) -> None:
    if sites == adaptation.sites:
        adaptation.merge()
        return
    names = {site.name for site in sites}
    adapters = adaptation.adapters
    chosen = {name: adapter for name, adapter in adapters.items() if name in names}
    dataclasses.replace(adaptation, sites=sites, adapters=chosen).merge()
    adaptation.sites = tuple(site for site in adaptation.sites if site.name not in names)
    adaptation.adapters = {name: adapter for name, adapter in adapters.items() if name not in names}


def _first_that_differs(subject: Subject, adapted: Application, expected: Tensor, sites: tuple[Site, ...]) -> str:
    """Merge site by site until the outputs differ, and name that site."""
    with adapted() as adaptation:
        for site in sites:
            _merge(adaptation, (site,))
            gap = difference(subject.outputs(), expected)
            if gap > subject.tolerance:
                break
        else:
            return ""
        adaptation.remove()
        subject.put_back()
    return f"; the first site whose merge differs is '{site.name}', by {gap:.1e}"


def _bytes(tensors: list[nn.Parameter]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _numbers_in(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - not a mapping
