"""Arithmetic of a step: what was done, and the least that its form needs.

The unit is ``tokens x long side x short side`` floating-point operations of an adapted weight: a frozen layer takes 4
(2 forward, 2 for the gradient of its input), full fine-tuning 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from randlora.adapter import Site, TwoFactorAdapter, TwoFactorMethod
from randlora.contraction import Widths, multiply_adds
from randlora.inject import Adaptation
from runners.benchmark.cases import Case
from runners.benchmark.step import TrainingStep, reader_of

FROZEN = 4.0
FULL = 6.0


def count_flops(step: TrainingStep) -> int:
    """Return the operations of the matrix products and convolutions of one eager step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step.take(eager=True)
    return int(counter.get_total_flops())


def count_rows(
    case: Case, model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, torch.Tensor]
) -> dict[str, int]:
    """Return the rows that the weight of each site is applied to in one forward pass."""
    rows = dict.fromkeys((site.name for site in sites), 0)
    handles = []
    for site in sites:

        def count(_: nn.Module, inputs: tuple[Any, ...], name: str = site.name) -> None:
            rows[name] += inputs[0].numel() // inputs[0].shape[-1]

        handles.append(reader_of(model, site).register_forward_pre_hook(count))
    try:
        with torch.no_grad():
            case.loss(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def unit(sites: Sequence[Site], rows: Mapping[str, int]) -> int:
    """Return the sum of tokens x long side x short side over the sites."""
    return sum(rows[site.name] * site.long * site.short for site in sites)


def floor_units(step: TrainingStep, rows: Mapping[str, int]) -> float | None:
    """Return the least operations of the adapted weights, in units; None where an adapter is no product of factors."""
    total = 0.0
    for site in step.sites:
        floor = _site_floor(site, rows[site.name], step.adaptation, rebuilt=_rebuilds(step))
        if floor is None:
            return None
        total += floor * rows[site.name] * site.long * site.short
    return total / unit(step.sites, rows)


def _rebuilds(step: TrainingStep) -> bool:
    return step.subject.execution.adapted_weights == "rebuild"


def _site_floor(site: Site, rows: int, adaptation: Adaptation, *, rebuilt: bool) -> float | None:
    adapter = adaptation.adapters.get(site.name)
    if adapter is None:
        if adaptation.n_trainable() == 0:
            return FROZEN
        return FULL if site.name in adaptation.scope else None
    if not isinstance(adapter, TwoFactorAdapter):
        return None
    widths, area = Widths.of(adapter), site.out_features * site.in_features
    on_activations, on_weight = multiply_adds(site, widths, tokens=rows, training=True)
    # 2 per multiply-add; forming the weight once more where it is rebuilt
    weight = FROZEN + 2 * (on_weight + int(rebuilt) * widths.inner * area) / (rows * area)
    activation = FROZEN + 2 * on_activations / (rows * area)
    form = adaptation.method.contraction if isinstance(adaptation.method, TwoFactorMethod) else "weight"
    if form == "weight" or not site.linear:
        return weight
    return activation if form == "activation" else min(weight, activation)
