"""Contract 8: the rank of an update."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from configs import ADAPTER_METHODS
from tiny_models import adapt, perturb

from randlora.methods.randlora import RandLoRA

FULL_RANK = [name for name, method in ADAPTER_METHODS.items() if isinstance(method, RandLoRA)]
LOW_RANK = [name for name, method in ADAPTER_METHODS.items() if name not in FULL_RANK and hasattr(method, "rank")]


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
