"""The audit: the contract between methods and models, checked on a live model of the user's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from randlora.adapter import Method, Targets
from randlora.audit import adapter_checks, model_checks, result_checks
from randlora.audit.findings import Finding
from randlora.audit.memory import CPU, fits
from randlora.audit.subject import Fingerprint, Subject, undisturbed
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import fingerprint, owner_of
from randlora.packed import is_packed

Notify = Callable[[str], None]


def audit(
    model: nn.Module,
    method: Method,
    targets: Targets,
    *,
    probe: Callable[[], Tensor],
    seed: int = 0,
    execution: Execution = DEFAULT_EXECUTION,
    autocast: torch.dtype | None = None,
    notify: Notify = lambda stage: None,
) -> tuple[Finding, ...]:
    """Put a method into a live model, check that it keeps the contract there, and take it out again.

    The model is afterwards bit for bit what it was, modes, gradients and the global random state included, unless
    ``model_restored`` says otherwise. It is never copied whole: beside what the method adds, at most the weights of the
    sites exist twice, where there is memory for that; of full fine-tuning a copy is kept on the CPU.

    Args:
        model: a model with its weights loaded and no adapters.
        method: the method.
        targets: its sites, and the scope of full fine-tuning.
        probe: runs the model on fixed inputs and returns differentiable outputs that depend on every trained tensor.
        seed: of bases, starts and whatever the audit draws.
        execution: how adapters run.
        autocast: precision of training, None for that of the model.
        notify: called with the name of each stage as it begins.

    Raises:
        ValueError: if the method cannot be applied to the targets.

    A model with packed weights is not audited: a single finding without a verdict says so.
    """
    if (packed := _first_packed(model, targets)) is not None:
        detail = f"'{packed}' is quantised: audit the model with weights in floating point"
        return (Finding(name="contract", passed=None, detail=detail),)
    with undisturbed(model):
        subject = Subject(
            model=model,
            method=method,
            targets=targets,
            probe=probe,
            seed=seed,
            execution=execution,
            autocast=autocast,
        )
        return tuple(_findings(subject, notify))


def failures(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that break the contract."""
    return [finding for finding in findings if finding.passed is False]


def _first_packed(model: nn.Module, targets: Targets) -> str | None:
    for site in targets.sites:
        owner, tensor = owner_of(model, site.name)
        weight = dict(owner.named_parameters(recurse=False)).get(tensor)
        if weight is not None and is_packed(owner, weight):
            return site.name
    return None


def _findings(subject: Subject, notify: Notify) -> list[Finding]:
    notify("the start")
    first = _first_application(subject)
    for name, parameter in subject.parameters.items():
        parameter.requires_grad_(name in first.scope)  # some kernels are picked by whether a weight takes gradients
    base = {train: subject.outputs(train=train) for train in (True, False)}
    size = sum(parameter.numel() * parameter.element_size() for parameter in first.scope.values())
    may_train = not first.scope or fits(size, CPU)
    if may_train:
        subject.keep(first.scope)
    with tempfile.TemporaryDirectory(prefix="randlora-audit-") as folder:
        path = Path(folder) / "adapter.safetensors"
        with subject.adapted() as adaptation:
            grown = fingerprint(subject.grown(adaptation))
            found = [
                model_checks.count_as_predicted(subject, adaptation),
                adapter_checks.grown_from_seed(first.grown, grown, disturbed=first.disturbed),
                adapter_checks.bases_kept_once(adaptation),
                model_checks.starts_at_base(subject, adaptation, base),
            ]
            merges = bool(adaptation.trainable()) and not adaptation.scope
            notify("training")
            found += (
                model_checks.training(subject, adaptation, base[True])
                if may_train
                else model_checks.not_trained(f"there is no memory to keep {size:,} bytes of weights that steps change")
            )
            expected = subject.stir(adaptation, base[False]) if merges else subject.outputs()
            notify("the adapters")
            found += [
                adapter_checks.forms_agree(subject, adaptation),
                adapter_checks.gradients_exact(subject, adaptation),
                adapter_checks.update_rank(subject, adaptation),
                result_checks.saves_trained_only(adaptation, path, may_load=may_train),
            ]
            values = {name: one.detach().clone() for name, one in adaptation.trainable().items()} if merges else {}
        notify("loading and merging")
        found.append(result_checks.reloads_bitwise(subject, path, expected))
        found += (
            result_checks.merging(subject, partial(result_checks.regrown, subject, values), base[False])
            if merges
            else result_checks.not_merged("there are no adapters to merge")
        )
    return [*found, result_checks.model_restored(subject)]


@dataclass(frozen=True, kw_only=True)
class _First:
    """What the first application shows: what grew, the weights it trains, whether it drew from the global generator."""

    grown: Fingerprint
    scope: dict[str, nn.Parameter]
    disturbed: bool


def _first_application(subject: Subject) -> _First:
    torch.default_generator.manual_seed(1)
    state = torch.get_rng_state()
    with subject.adapted() as adaptation:
        disturbed = not torch.equal(torch.get_rng_state(), state)
        first = _First(grown=fingerprint(subject.grown(adaptation)), scope=dict(adaptation.scope), disturbed=disturbed)
    torch.default_generator.manual_seed(2)  # for the second application
    return first
