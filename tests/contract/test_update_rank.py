"""Contract 8: the rank of an update."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from configs import ADAPTER_METHODS
from tiny_models import adapt, perturb

from randlora.methods.randlora import RandLoRA

RANDLORA = {name: method for name, method in ADAPTER_METHODS.items() if isinstance(method, RandLoRA)}
FULL = [("sum_of_products", rule) for rule in ("floor", "ceil", "floor_plus_one")]
# bases of few values have dependent columns where they are as small as here
FULL_RANK = [
    name
    for name, method in RANDLORA.items()
    if (method.composition, method.basis_count) in FULL and method.distribution != "ternary"
]
LOW_RANK = [name for name, method in ADAPTER_METHODS.items() if name not in RANDLORA and hasattr(method, "rank")]


def ranks(name: str, *, size: int, **changes: object) -> dict[str, int]:
    adaptation = adapt(dataclasses.replace(ADAPTER_METHODS[name], **changes), dtype=torch.float64, size=size)
    perturb(adaptation)
    with torch.no_grad():
        return {
            site.name: int(torch.linalg.matrix_rank(adaptation.adapters[site.name].delta()))
            for site in adaptation.sites
        }


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", LOW_RANK)
def test_low_rank_updates_have_their_rank(name: str, size: int) -> None:
    method = ADAPTER_METHODS[name]
    expected = size if method.size_field == "rank" else method.rank
    assert set(ranks(name, size=size).values()) == {expected}


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


@pytest.mark.parametrize("name", RANDLORA)
def test_no_update_exceeds_the_rank_that_its_method_states(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name])
    found = ranks(name, size=3)
    assert all(found[site.name] <= adaptation.method.update_rank(site) for site in adaptation.sites)
