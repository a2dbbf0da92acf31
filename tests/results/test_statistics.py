"""Intervals, paired tests, correction and power, against scipy, brute force and simulation."""

from __future__ import annotations

import itertools
import math
import random
import statistics as plain
from collections.abc import Sequence

import numpy
import pytest
from scipy import stats

from results.power import SHOWN_UP_TO, seeds_needed, seeds_text
from results.statistics import (
    EXACT_FLIPS,
    Interval,
    describe,
    holm,
    is_zero,
    sign_flip_p,
    smallest_sign_flip_p,
    stratified_t,
)

VALUES = [0.612, 0.588, 0.641, 0.607, 0.630]


def test_the_interval_of_a_mean_is_students() -> None:
    found = describe(VALUES)
    assert (found.n, found.mean) == (5, pytest.approx(numpy.mean(VALUES)))
    assert found.std == pytest.approx(numpy.std(VALUES, ddof=1))
    low, high = stats.t.interval(0.95, 4, loc=numpy.mean(VALUES), scale=stats.sem(VALUES))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (pytest.approx(low), pytest.approx(high))


def test_what_has_no_basis_is_none() -> None:
    assert describe([]).mean is None
    one = describe([0.5])
    assert (one.n, one.mean, one.std, one.interval) == (1, 0.5, None, None)
    assert describe([0.5, 0.5, 0.5]).interval == Interval(low=0.5, high=0.5)
    assert sign_flip_p([]) is None
    assert stratified_t([]) is None
    assert stratified_t([[0.1]]) is None
    assert stratified_t([[0.1, 0.2], [0.3]]) is None


def brute_force(differences: Sequence[float]) -> float:
    """Every flip, in whole thousandths so that equal sums are equal."""
    whole = [round(1000 * each) for each in differences]
    flips = [
        sum(s * d for s, d in zip(signs, whole, strict=True)) for signs in itertools.product((1, -1), repeat=len(whole))
    ]
    return sum(abs(flip) >= abs(sum(whole)) for flip in flips) / len(flips)


@pytest.mark.parametrize(
    "differences",
    [[0.03], [0.01, 0.02], [0.1, 0.2, -0.3], [0.1, 0.1, 0.1, 0.1, 0.1], [0.1, -0.2, 0.3, 0.004, 0.0, 0.25, -0.07]],
)
def test_the_sign_flip_test_counts_every_flip(differences: list[float]) -> None:
    assert sign_flip_p(differences) == brute_force(differences)


def test_few_datasets_bound_the_sign_flip_p_from_below() -> None:
    for n in range(1, 9):
        assert sign_flip_p([0.01 * (k + 1) for k in range(n)]) == smallest_sign_flip_p(n) == min(1.0, 2 / 2**n)


def test_the_sign_flip_test_ignores_scale_sign_and_order() -> None:
    differences = [0.031, -0.012, 0.044, 0.027, -0.003, 0.018, 0.052, 0.008]
    p = sign_flip_p(differences)
    assert p == brute_force(differences)
    assert sign_flip_p([-each for each in reversed(differences)]) == p
    assert sign_flip_p([each / 3 for each in differences]) == p
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0


def test_the_drawn_sign_flip_test_agrees_with_the_exact_one_and_repeats() -> None:
    generator = random.Random(3)
    few = [generator.gauss(0.5, 1) for _ in range(EXACT_FLIPS)]
    many = [*few, 1e-15]  # one more, which moves no sum
    exact, drawn = sign_flip_p(few), sign_flip_p(many)
    assert exact is not None
    assert 0.001 < exact < 0.2
    assert drawn == pytest.approx(exact, abs=0.003)
    assert sign_flip_p(many) == drawn
    assert sign_flip_p([1.0] * 60) == pytest.approx(1e-5)  # never 0


def test_one_dataset_is_the_paired_t_test() -> None:
    first, second = [0.61, 0.64, 0.60, 0.66], [0.58, 0.63, 0.61, 0.62]
    found = stratified_t([[a - b for a, b in zip(first, second, strict=True)]])
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found is not None
    assert found.interval is not None
    assert found.p == pytest.approx(expected.pvalue)
    assert found.freedom == pytest.approx(3)
    assert (found.interval.low, found.interval.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_two_datasets_are_welchs_test() -> None:
    # the mean of two strata is zero exactly where one equals minus the other
    one, other = [0.03, 0.05, 0.01, 0.04], [0.02, -0.01, 0.06]
    found = stratified_t([one, other])
    expected = stats.ttest_ind(one, [-each for each in other], equal_var=False)
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue)
    assert found.freedom == pytest.approx(expected.df)
    assert found.std == pytest.approx(math.hypot(plain.stdev(one), plain.stdev(other)) / 2)


def test_what_does_not_vary_is_not_tested() -> None:
    same = stratified_t([[0.0, 0.0], [0.0, 0.0]])
    assert same is not None
    assert (same.p, same.interval) == (1.0, Interval(low=0, high=0))
    constant = stratified_t([[0.3 - 0.1, 0.4 - 0.2, 0.9 - 0.7]])  # equal up to rounding
    assert constant is not None
    assert (constant.std, constant.p, constant.interval) == (0.0, None, None)
    assert is_zero(0.1 + 0.2 - 0.3, [0.1, 0.2, 0.3])
    assert not is_zero(1e-6, [0.3])


def test_the_seed_test_is_wrong_as_often_as_it_says() -> None:
    """Four datasets of unequal spread, three seeds, no difference: one p in twenty is below 5 %."""
    generator = numpy.random.default_rng(11)
    scale = numpy.array([0.01, 0.02, 0.03, 0.04])
    draws = generator.normal(size=(1500, 3, 4)) * scale
    found = [stratified_t(each.T.tolist()) for each in draws]
    below = sum(each.p < 0.05 for each in found if each is not None and each.p is not None)
    assert len(found) == 1500
    assert 0.025 < below / 1500 < 0.065


def test_holm_against_the_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, None, 0.001]) == (0.5, None, 0.002)
    assert holm([]) == ()
    assert holm([None]) == (None,)
    assert holm([0.9, 0.8]) == (1.0, 1.0)


def test_holm_keeps_order_and_never_lowers_a_p() -> None:
    generator = random.Random(5)
    p_values = [generator.random() ** 3 for _ in range(40)]
    corrected = [each for each in holm(p_values) if each is not None]
    assert len(corrected) == 40
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))
    order = sorted(range(40), key=lambda index: p_values[index])
    assert [corrected[index] for index in order] == sorted(corrected)
    assert max(corrected) <= 1


@pytest.mark.parametrize("paired", [True, False])
def test_seeds_needed_are_those_of_the_textbook(paired: bool) -> None:
    # Cohen (1988): d = 0.5, 80 %, two-sided 5 %: 34 pairs, 64 per group; d = 0.8: 15 and 26
    assert seeds_needed(0.5, 1.0, paired=paired) == (34 if paired else 64)
    assert seeds_needed(-0.8, 1.0, paired=paired) == (15 if paired else 26)


def test_seeds_needed_of_degenerate_gaps() -> None:
    assert seeds_needed(0.0, 0.01, paired=True) is None
    assert seeds_needed(None, 0.01, paired=True) is None
    assert seeds_needed(0.01, None, paired=True) is None
    assert seeds_needed(0.01, 0.0, paired=True) == 2
    assert seeds_needed(1e9, 1.0, paired=True) == 2
    far = seeds_needed(1e-4, 0.02, paired=True)
    assert far is not None
    assert far > SHOWN_UP_TO
    assert (seeds_text(far), seeds_text(12), seeds_text(None)) == (">1,000", "12", "")


def test_smaller_gaps_need_more_seeds() -> None:
    needed = [seeds_needed(gap, 0.02, paired=True) or 0 for gap in (0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0001)]
    assert needed == sorted(needed)
    assert len(set(needed)) == len(needed)


@pytest.mark.parametrize(("gap", "datasets"), [(0.02, 1), (0.01, 4)])
def test_the_seeds_needed_find_the_gap_in_four_of_five_cases(gap: float, datasets: int) -> None:
    std = 0.02  # of the difference on one dataset with one seed
    seeds = seeds_needed(gap, std / math.sqrt(datasets), paired=True, pooled=datasets)
    assert seeds is not None
    generator = numpy.random.default_rng(7)

    def found(n: int) -> float:
        draws = generator.normal(gap, std, size=(700, datasets, n))
        tests = [stratified_t(each.tolist()) for each in draws]
        return sum(test.p < 0.05 for test in tests if test is not None and test.p is not None) / 700

    assert found(seeds) > 0.75
    assert found(seeds // 2) < 0.6
