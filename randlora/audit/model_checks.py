"""Checks of the whole model: what is counted, where it starts, what training and evaluation change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from randlora.adapter import AdapterMethod
from randlora.audit.findings import Finding
from randlora.audit.subject import Fingerprint, Subject, difference, plain_name
from randlora.inject import Adaptation, fingerprint, owner_of

STEPS = 3  # a product of two factors of which one starts at zero moves both from the second on


def count_as_predicted(subject: Subject, adaptation: Adaptation) -> Finding:
    """Closed form against module, per site and in total; whatever takes gradients is counted."""
    name, method = "count_as_predicted", subject.method
    if isinstance(method, AdapterMethod):
        for site in adaptation.sites:
            held = sum(parameter.numel() for parameter in adaptation.adapters[site.name].parameters())
            if held != (predicted := method.n_trainable(site)):
                detail = f"site '{site.name}' trains {held:,} parameters, its closed form says {predicted:,}"
                return Finding(name=name, passed=False, detail=detail)
    counted, predicted = adaptation.n_trainable(), method.count(subject.targets)
    if counted != predicted:
        detail = f"{counted:,} trainable parameters, the closed form says {predicted:,}"
        return Finding(name=name, passed=False, detail=detail)
    known = {id(parameter) for parameter in adaptation.trainable().values()}
    for tensor, parameter in adaptation.model.named_parameters():
        if parameter.requires_grad != (id(parameter) in known):
            states = ("takes gradients but is not", "takes no gradients but is")
            detail = f"'{plain_name(tensor)}' {states[id(parameter) in known]} counted as trainable"
            return Finding(name=name, passed=False, detail=detail)
    sites = f" on {len(adaptation.sites)} sites" if adaptation.sites else ""
    return Finding(name=name, passed=True, detail=f"{counted:,} parameters{sites}, as in closed form")


def starts_at_base(subject: Subject, adaptation: Adaptation, base: Mapping[bool, Tensor]) -> Finding:
    """Outputs before the first step against those of the base in the same mode, bit for bit."""
    name = "starts_at_base"
    found = {train: subject.outputs(train=train) for train in base}
    gap = max(difference(found[train], base[train]) for train in base)
    if not subject.method.starts_at_base:
        detail = f"starts elsewhere by choice: outputs differ by {gap:.1e}"
        return Finding(name=name, passed=None, detail=detail)
    if all(torch.equal(found[train], base[train]) for train in base):
        return Finding(name=name, passed=True, detail="outputs bitwise equal in train and eval mode")
    where = ""
    with torch.no_grad():
        for site in adaptation.sites:
            owner, tensor = owner_of(adaptation.model, site.name)
            weight = subject.parameters[site.name]
            if not torch.equal(adapted := getattr(owner, tensor), weight):
                change, largest = float((adapted - weight).abs().max()), float(weight.abs().max())
                where = f"; site '{site.name}' changes its weight by {change:.1e}, its largest entry is {largest:.1e}"
                break
    return Finding(name=name, passed=False, detail=f"outputs differ by {gap:.1e}, allowed 0{where}")


def training(subject: Subject, adaptation: Adaptation, outputs: Tensor) -> list[Finding]:
    """Steps in train mode move every trainable tensor, an evaluation none; neither touches a frozen one.

    Args:
        subject: the model and the method.
        adaptation: the method in the model, at its start.
        outputs: any outputs, for their shape.
    """
    trained = adaptation.trainable()
    at_start = subject.at_start(adaptation)
    moves = Finding(name="trainable_move", passed=None, detail="nothing is trained")
    if trained:
        start = fingerprint(iter(trained.items()))
        direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(outputs.device)
        for number in range(STEPS):
            subject.step(adaptation, direction, number=number)
        moves = _moves(trained, start)
    before = fingerprint(_small(subject, adaptation))
    subject.outputs()
    after = fingerprint(_small(subject, adaptation))
    during = f"{STEPS} steps in train mode and an evaluation" if trained else "an evaluation"
    return [
        moves,
        _unchanged("frozen_unchanged", at_start, fingerprint(adaptation.frozen()), during=during),
        _unchanged("evaluation_changes_nothing", before, after, during="an evaluation"),
    ]


def not_trained(reason: str) -> list[Finding]:
    """Return the findings of steps that were not taken."""
    names = ("trainable_move", "frozen_unchanged", "evaluation_changes_nothing")
    return [Finding(name=name, passed=None, detail=reason) for name in names]


def _moves(trained: Mapping[str, nn.Parameter], start: Fingerprint) -> Finding:
    name = "trainable_move"
    after = fingerprint(iter(trained.items()))
    stayed = [tensor for tensor in trained if after[tensor] == start[tensor]]
    if stayed:
        detail = f"{len(stayed)} of {len(trained)} trainable tensors have not moved, among them '{stayed[0]}'"
        return Finding(name=name, passed=False, detail=detail)
    broken = [tensor for tensor, value in trained.items() if not bool(value.isfinite().all())]
    if broken:
        return Finding(name=name, passed=False, detail=f"'{broken[0]}' is not finite after {STEPS} steps")
    return Finding(name=name, passed=True, detail=f"all {len(trained)} trainable tensors moved in {STEPS} steps")


def _small(subject: Subject, adaptation: Adaptation) -> Iterator[tuple[str, Tensor]]:
    """Yield all but the model's own frozen weights, which are too many to look at twice."""
    yield from adaptation.trainable().items()
    yield from subject.grown(adaptation)
    yield from adaptation.model.named_buffers()


def _tensors(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def _unchanged(name: str, before: Fingerprint, after: Fingerprint, *, during: str) -> Finding:
    changed = [tensor for tensor, sums in after.items() if before.get(tensor) != sums]
    if changed:
        detail = f"{during} changed {len(changed)} of {len(after)} tensors, among them '{plain_name(changed[0])}'"
        return Finding(name=name, passed=False, detail=detail)
    return Finding(name=name, passed=True, detail=f"{_tensors(len(after))} bitwise the same after {during}")
