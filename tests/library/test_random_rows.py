"""Frozen random bases: their distribution, and that a larger matrix extends a smaller one."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from randlora.bases import DISTRIBUTIONS, Distribution, random_rows
from randlora.scaling import SCALE_RULES, scale_of
from randlora.seeds import generator_for, seed_for

N = 300


@pytest.mark.parametrize("sparsity", [2.0, 6.0, 27.7])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_mean_0_and_variance_1(distribution: Distribution, sparsity: float) -> None:
    values = random_rows(N, N, seed=1, purpose="test", distribution=distribution, sparsity=sparsity).double()
    # three standard errors; the fourth moment of a ternary entry is s / 2
    fourth = {"uniform": 1.8, "normal": 3.0, "ternary": sparsity / 2}[distribution]
    assert abs(values.mean()) < 3 / N
    assert abs(values.square().mean() - 1) <= 3 * sqrt(fourth - 1) / N + 1e-6
    rows, columns = values.mean(1), values.mean(0)
    assert max(rows.abs().max(), columns.abs().max()) < 5 / sqrt(N)


def test_uniform_is_uniform() -> None:
    values = random_rows(N, N, seed=2, purpose="test", distribution="uniform")
    assert values.abs().max() <= sqrt(3)
    shares = torch.histc(values, bins=10, min=-sqrt(3), max=sqrt(3)) / values.numel()
    assert (shares - 0.1).abs().max() < 0.005


def test_normal_is_normal() -> None:
    values = random_rows(N, N, seed=2, purpose="test", distribution="normal").double()
    assert values.isfinite().all()
    for bound, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert abs((values.abs() < bound).double().mean() - share) < 0.006
    assert abs(values.pow(3).mean()) < 0.03


@pytest.mark.parametrize(("sparsity", "zeros"), [(2.0, 0.0), (6.0, 2 / 3), (27.7, 0.928), (100.0, 0.98)])
def test_ternary_has_its_share_of_zeros(sparsity: float, zeros: float) -> None:
    values = random_rows(N, N, seed=3, purpose="test", distribution="ternary", sparsity=sparsity)
    assert abs((values == 0).double().mean() - zeros) < 0.006
    size = torch.tensor(sqrt(sparsity / 2), dtype=torch.float32)
    assert torch.equal(values.unique(), torch.stack([-size, size]) if zeros == 0 else torch.tensor([-size, 0, size]))
    assert abs((values > 0).double().mean() - 1 / sparsity) < 0.006


def test_entries_are_uncorrelated() -> None:
    values = random_rows(N, N, seed=4, purpose="test").double()
    for matrix in (values, values.T):
        correlation = torch.corrcoef(matrix) - torch.eye(N, dtype=torch.float64)
        assert correlation.abs().max() < 6 / sqrt(N)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_larger_matrix_extends_a_smaller_one(distribution: Distribution) -> None:
    large = random_rows(40, 70, seed=5, purpose="test", distribution=distribution)
    for rows, columns in ((40, 70), (1, 1), (7, 70), (40, 13), (17, 33)):
        small = random_rows(rows, columns, seed=5, purpose="test", distribution=distribution)
        assert small.dtype == torch.float32
        assert torch.equal(small, large[:rows, :columns])


def test_seed_and_purpose_give_independent_rows() -> None:
    one = random_rows(30, 30, seed=1, purpose="left").flatten()
    for other in (random_rows(30, 30, seed=2, purpose="left"), random_rows(30, 30, seed=1, purpose="right")):
        assert abs(torch.corrcoef(torch.stack([one, other.flatten()]))[0, 1]) < 0.12


def test_a_ternary_basis_needs_a_sparsity_of_2() -> None:
    with pytest.raises(ValueError, match=r"sparsity = 1.9: a ternary basis needs s of 2 or more"):
        random_rows(2, 2, seed=1, purpose="test", distribution="ternary", sparsity=1.9)


def test_seeds_depend_on_every_part_of_the_purpose() -> None:
    purposes = [("a",), ("b",), ("a", 1), ("a", 2), ("a", "1", "2"), ("a1",), ("a", 12), ("a", "b")]
    seeds = {seed_for(seed, *purpose) for seed in (0, 1, -1, 2**70) for purpose in purposes}
    assert len(seeds) == 4 * len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(1, "bases") == seed_for(1, "bases")
    with pytest.raises(ValueError, match="needs a purpose"):
        seed_for(1)


def test_streams_do_not_touch_the_global_generator() -> None:
    state = torch.get_rng_state()
    torch.rand(3, generator=generator_for(1, "bases"))
    assert torch.equal(torch.get_rng_state(), state)


def test_scale_rules() -> None:
    scales = {rule: scale_of(10.0, rule, rank=4, bases=25) for rule in SCALE_RULES}
    assert scales == {"constant": 10.0, "over_rank": 2.5, "over_sqrt_rank": 5.0, "over_sqrt_bases": 2.0}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_rows_can_be_drawn_without_those_above(distribution: Distribution) -> None:
    whole = random_rows(9, 5, seed=3, purpose="test", distribution=distribution)
    part = random_rows(4, 5, seed=3, purpose="test", distribution=distribution, first=2)
    assert torch.equal(part, whole[2:6])
