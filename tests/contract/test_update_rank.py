"""Contract 8: the rank of an update."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from configs import ADAPTER_METHODS
from tiny_models import adapt, changes, perturb, train

from randlora.adapter import Site, TwoFactorMethod
from randlora.inject import owner_of
from randlora.methods.dora import DoRA
from randlora.methods.kradapter import KRAdapter
from randlora.methods.randlora import RandLoRA

RANDLORA = {name: method for name, method in ADAPTER_METHODS.items() if isinstance(method, RandLoRA)}
FULL = [("sum_of_products", rule) for rule in ("floor", "ceil", "floor_plus_one")]
# bases of few values have dependent columns where they are as small as here
FULL_RANK = [
    name
    for name, method in RANDLORA.items()
    if (method.composition, method.basis_count) in FULL and method.distribution != "ternary"
]
OTHERS = [name for name in ADAPTER_METHODS if name not in RANDLORA]
REALISTIC = {"square": (768, 768), "tall": (3072, 768), "wide": (768, 2304)}


def ranks(name: str, *, size: int, **fields: object) -> dict[str, int]:
    adaptation = adapt(dataclasses.replace(ADAPTER_METHODS[name], **fields), dtype=torch.float64, size=size)
    perturb(adaptation)
    return {name: int(torch.linalg.matrix_rank(change)) for name, change in changes(adaptation).items()}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", OTHERS)
def test_updates_have_the_rank_that_their_method_states(name: str, size: int) -> None:
    adaptation = adapt(ADAPTER_METHODS[name], size=size)
    stated = {site.name: adaptation.method.update_rank(site) for site in adaptation.sites}
    assert ranks(name, size=size) == stated
    low = isinstance(adaptation.method, TwoFactorMethod)
    assert all((stated[site.name] < site.short) == low for site in adaptation.sites)


@pytest.mark.parametrize("name", OTHERS)
def test_a_few_steps_from_the_start_reach_the_rank(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name], dtype=torch.float64)
    train(adaptation, steps=3)
    found = changes(adaptation)
    for site in adaptation.sites:
        assert torch.linalg.matrix_rank(found[site.name]) == adaptation.method.update_rank(site)


@pytest.mark.parametrize("shape", REALISTIC)
@pytest.mark.parametrize("name", [name for name, method in ADAPTER_METHODS.items() if isinstance(method, KRAdapter)])
def test_khatri_rao_products_of_realistic_shapes_have_full_rank(name: str, shape: str) -> None:
    rows, columns = REALISTIC[shape]
    site = Site(name="w", out_features=rows, in_features=columns)
    adapter = ADAPTER_METHODS[name].adapt(site, None, torch.Generator().manual_seed(1))
    with torch.no_grad():
        adapter.zero.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
        # squares of the singular values, faster than the values themselves
        update = adapter.delta().double()
        gram = update @ update.T if rows < columns else update.T @ update
        values = torch.linalg.eigvalsh(gram)
    assert len(values) == site.short
    assert values[0] / values[-1] > 1e-9


@pytest.mark.parametrize("name", [name for name, method in ADAPTER_METHODS.items() if isinstance(method, DoRA)])
def test_dora_turns_the_rows_by_a_change_of_low_rank(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name], dtype=torch.float64, size=2)
    perturb(adaptation)
    for site in adaptation.sites:
        owner, tensor = owner_of(adaptation.model, site.name)
        base = owner.parametrizations[tensor].original
        base = base.T if site.transposed else base
        adapter = adaptation.adapters[site.name]
        with torch.no_grad():
            adapted = adapter.adapted(base)
            norms = (base + adapter.scale * adapter.b @ adapter.a).norm(dim=1)
            assert torch.allclose(adapted.norm(dim=1), adapter.magnitude.abs())
            turned = adapted * (norms / adapter.magnitude)[:, None] - base
        assert torch.linalg.matrix_rank(adapted - base) == site.short
        assert torch.linalg.matrix_rank(turned, atol=1e-9) == 2


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("name", FULL_RANK)
def test_randlora_has_full_rank_where_its_rank_divides(name: str, rank: int) -> None:
    adaptation = adapt(ADAPTER_METHODS[name])
    assert ranks(name, size=rank, basis_count="floor") == {site.name: site.short for site in adaptation.sites}


@pytest.mark.parametrize("name", FULL_RANK)
def test_randlora_has_full_rank_or_the_whole_bases_that_fit(name: str) -> None:
    sites = adapt(ADAPTER_METHODS[name]).sites
    for rule in ("ceil", "floor_plus_one"):
        assert ranks(name, size=5, basis_count=rule) == {site.name: site.short for site in sites}
    assert ranks(name, size=5, basis_count="floor") == {site.name: site.short // 5 * 5 for site in sites}


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("name", FULL_RANK)
def test_continuous_bases_give_full_rank(name: str, distribution: str) -> None:
    found = ranks(name, size=2, distribution=distribution)
    assert found == {site.name: site.short for site in adapt(ADAPTER_METHODS[name]).sites}


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("name", [name for name, method in RANDLORA.items() if method.bases is not None])
def test_a_product_of_sums_has_the_rank_of_one_basis(name: str, size: int) -> None:
    adaptation = adapt(ADAPTER_METHODS[name], size=size)
    assert set(ranks(name, size=size).values()) == {adaptation.method.rank}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name, method in RANDLORA.items() if method.basis_count == "half"])
def test_half_the_bases_give_half_of_the_full_rank(name: str, rank: int) -> None:
    sites = adapt(ADAPTER_METHODS[name]).sites
    assert ranks(name, size=rank) == {site.name: site.short // (2 * rank) * rank for site in sites}


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_no_update_exceeds_the_rank_that_its_method_states(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name])
    found = ranks(name, size=3)
    assert all(found[site.name] <= adaptation.method.update_rank(site) for site in adaptation.sites)
