"""Audits of methods on the model of a run, once per process, and how their verdict enters a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from randlora.adapter import Method
from randlora.audit.contract import audit, failures
from randlora.audit.findings import Finding
from randlora.backbones.base import Backbone
from runners.machine import Machine

BATCH = 2  # inputs of each forward pass


class AuditError(RuntimeError):
    """A method breaks its contract on the model of a run; ``checks`` is what the record states."""

    def __init__(self, message: str, *, checks: Mapping[str, bool]) -> None:
        super().__init__(message)
        self.checks = checks


@dataclass(kw_only=True)
class Auditor:
    """Audits each method once per backbone, device, precision and execution, and remembers what was found."""

    known: dict[str, tuple[Finding, ...]] = field(default_factory=dict)

    def verdict(self, model: nn.Module, *, backbone: Backbone, method: Method, machine: Machine) -> dict[str, bool]:
        """Return the checks that a record states, ``audit/<check>``; those that do not apply are left out.

        None are stated where the machine leaves audits out.

        Raises:
            AuditError: if a check fails, naming it and the site.
        """
        if not machine.audit:
            return {}
        where = (str(machine.torch_device()), machine.training_precision(), machine.execution)
        key = repr((backbone, method, where))
        if key not in self.known:
            self.known[key] = inspect(model, backbone=backbone, method=method, machine=machine)
        broken = failures(self.known[key])
        if broken:
            others = f" (and {len(broken) - 1} more: see 'randlora audit')" if len(broken) > 1 else ""
            raise AuditError(
                f"{type(method).__name__} breaks its contract on {backbone.name}: "
                f"{broken[0].name}: {broken[0].detail}{others}",
                checks=checks(self.known[key]),
            )
        return checks(self.known[key])


def inspect(
    model: nn.Module,
    *,
    backbone: Backbone,
    method: Method,
    machine: Machine,
    notify: Callable[[str], None] = lambda stage: None,
) -> tuple[Finding, ...]:
    """Audit a method on a backbone's model with random inputs, as the machine would run it."""
    return audit(
        model,
        method,
        backbone.targets_of(model),
        probe=backbone.probe(model, batch=BATCH, generator=torch.Generator().manual_seed(0)),
        execution=machine.execution,
        autocast=torch.bfloat16 if machine.training_precision() == "bfloat16" else None,
        notify=notify,
    )


def checks(findings: Sequence[Finding]) -> dict[str, bool]:
    """Return what a record states of an audit."""
    return {f"audit/{one.name}": one.passed for one in findings if one.passed is not None}
