"""Contract 3: the closed form of the number of trainable parameters is what the modules hold."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from tiny_models import adapt, fitted, suited, targets_of

from randlora.adapter import AdapterMethod, Site, TwoFactorAdapter, UpdateAdapter
from randlora.methods.randlora import BASIS_COUNTS, RandLoRA

SHAPES = {"square": (12, 12), "tall": (20, 12), "wide": (12, 20), "not dividing": (13, 7), "narrow": (5, 40)}


def check(method: AdapterMethod, site: Site) -> None:
    shared = method.shared([site], 1)
    adapter = method.adapt(site, shared, torch.Generator().manual_seed(2))
    assert sum(parameter.numel() for parameter in adapter.parameters()) == method.n_trainable(site)
    weight = torch.randn(site.out_features, site.in_features, generator=torch.Generator().manual_seed(3))
    adapter.start_from(weight)
    assert adapter.adapted(weight).shape == weight.shape
    if isinstance(adapter, UpdateAdapter):
        assert adapter.delta().shape == weight.shape
    if isinstance(adapter, TwoFactorAdapter):
        left, right = adapter.factors()
        assert left.shape[0] == site.out_features
        assert right.shape[1] == site.in_features
        assert left.shape[1] == right.shape[0]
    assert all(
        parameter.dtype == torch.float32 and parameter.device.type == "cpu" for parameter in adapter.parameters()
    )


SIZED = [
    (name, size)
    for name, method in ADAPTER_METHODS.items()
    for size in ([1, 2, 3, 5] if method.size_field is not None else [0])
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "size"), SIZED)
def test_closed_form_is_the_count_of_the_module(name: str, shape: str, size: int) -> None:
    rows, columns = SHAPES[shape]
    check(fitted(ADAPTER_METHODS[name], size), Site(name="w", out_features=rows, in_features=columns))


@pytest.mark.parametrize("rank", [1, 4, 5, 7])
@pytest.mark.parametrize("basis_count", BASIS_COUNTS)
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if isinstance(method, RandLoRA)])
def test_every_rule_for_the_number_of_bases_counts(name: str, basis_count: str, rank: int) -> None:
    bases = 5 if basis_count == "given" else None
    method = dataclasses.replace(ADAPTER_METHODS[name], basis_count=basis_count, bases=bases, rank=rank)
    for rows, columns in SHAPES.values():
        site = Site(name="w", out_features=rows, in_features=columns)
        if rank <= site.short and method.n_bases(site):
            check(method, site)


@pytest.mark.parametrize("name", METHODS)
def test_count_on_targets_is_the_count_of_the_adaptation(name: str) -> None:
    adaptation = adapt(METHODS[name])
    targets = suited(adaptation.method, targets_of(type(adaptation.model)()))
    assert adaptation.method.count(targets) == adaptation.n_trainable()
    assert adaptation.n_trainable() == sum(p.numel() for p in adaptation.model.parameters() if p.requires_grad)
