"""A recipe refuses values out of range, and its schedule gives the rates it states."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from configs import build, names

from randlora.recipe import Recipe


@pytest.fixture
def recipe() -> Recipe:
    return dataclasses.replace(
        build("recipe", "clip"), schedule="cosine", warmup_steps=0, final_fraction=0.01, max_steps=None
    )


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("learning_rate", 0.0, "a number above 0"),
        ("learning_rate", "fast", "a number above 0"),
        ("learning_rate", math.nan, "a number above 0"),
        ("head_learning_rate", -1e-3, "a number above 0"),
        ("batch_size", 0, "a whole number of 1 or more"),
        ("batch_size", 2.5, "a whole number of 1 or more"),
        ("micro_batch_size", 0, "a whole number of 1 or more"),
        ("shots", 0, "a whole number of 1 or more"),
        ("max_steps", -1, "a whole number of 1 or more"),
        ("epochs", 0, "a whole number of 1 or more"),
        ("clip_norm", 0.0, "a number above 0"),
        ("fraction", 0.0, "a number above 0 to 1"),
        ("fraction", 1.5, "a number above 0 to 1"),
        ("fraction", math.nan, "a number above 0 to 1"),
        ("final_fraction", -0.1, "a number from 0 to 1"),
        ("weight_decay", -0.1, "a number of 0 or more"),
        ("weight_decay", "0.1", "a number of 0 or more"),
        ("warmup_steps", -1, "a whole number of 0 or more"),
        ("warmup_steps", 0.5, "a whole number of 0 or more"),
        ("min_steps_per_epoch", -1, "a whole number of 0 or more"),
        ("crop_padding", -4, "a whole number of 0 or more"),
        ("validation_per_class", -1, "a whole number of 0 or more"),
        ("optimizer", "sgd", "'adamw', 'muon'"),
        ("schedule", "step", "'cosine', 'linear', 'constant'"),
        ("crop", "centre", "'none', 'pad', 'resized'"),
        ("evaluate_on", "train", "'test', 'validation'"),
        ("betas", (0.9,), "two numbers"),
        ("betas", (0.9, 1.0), "two numbers"),
        ("betas", 0.9, "two numbers"),
        ("betas", ("a", "b"), "two numbers"),
        ("crop_scale", (0.0, 1.0), "two numbers, 0 < low <= high <= 1"),
        ("crop_scale", (0.9, 0.5), "two numbers, 0 < low <= high <= 1"),
        ("flip", "yes", "true or false"),
        ("replacement", 1, "true or false"),
        ("epochs_by_dataset", "no", "true or false"),
    ],
)
def test_a_value_out_of_range_names_field_and_range(recipe: Recipe, field: str, value: Any, valid: str) -> None:
    with pytest.raises(ValueError, match=rf"Recipe\.{field} = .*; valid: {valid}"):
        dataclasses.replace(recipe, **{field: value})


@pytest.mark.parametrize("count", [-1, 1.5, True, None])
def test_images_held_out_are_a_whole_number(recipe: Recipe, count: object) -> None:
    with pytest.raises(ValueError, match="validation_per_class"):
        dataclasses.replace(recipe, evaluate_on="validation", validation_per_class=count)


def test_unset_limits_are_allowed(recipe: Recipe) -> None:
    changed = dataclasses.replace(recipe, shots=None, max_steps=None, micro_batch_size=None, clip_norm=None)
    assert changed.clip_norm is None


def test_cosine_falls_from_the_peak_to_its_last_share(recipe: Recipe) -> None:
    factors = [recipe.rate_factor(step, 100) for step in range(101)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.505)
    assert factors[25] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.sqrt(0.5)))
    assert factors[100] == pytest.approx(0.01)
    assert factors == sorted(factors, reverse=True)


def test_linear_falls_evenly(recipe: Recipe) -> None:
    linear = dataclasses.replace(recipe, schedule="linear", final_fraction=0.0)
    assert [linear.rate_factor(step, 4) for step in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_warm_up_rises_evenly_and_the_rest_follows(recipe: Recipe) -> None:
    warm = dataclasses.replace(recipe, warmup_steps=4)
    assert [warm.rate_factor(step, 14) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert warm.rate_factor(9, 14) == pytest.approx(0.505)
    assert warm.rate_factor(14, 14) == pytest.approx(0.01)
    constant = dataclasses.replace(warm, schedule="constant")
    assert [constant.rate_factor(step, 14) for step in (0, 3, 4, 13)] == pytest.approx([0.25, 1.0, 1.0, 1.0])


def test_a_run_shorter_than_its_warm_up_still_has_rates(recipe: Recipe) -> None:
    warm = dataclasses.replace(recipe, warmup_steps=10)
    assert [warm.rate_factor(step, 3) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_steps_follow_from_images_epochs_and_limit(recipe: Recipe) -> None:
    changed = dataclasses.replace(recipe, batch_size=8, epochs=3, min_steps_per_epoch=0)
    plan = changed.plan(20, seed=1)
    assert (plan.n, plan.batch_size, plan.seed, plan.replacement) == (20, 8, 1, changed.replacement)
    assert changed.total_steps(plan) == 9
    assert dataclasses.replace(changed, max_steps=5).total_steps(plan) == 5
    assert dataclasses.replace(changed, max_steps=50).total_steps(plan) == 9


def test_epochs_come_from_the_data_set_where_the_recipe_says_so(recipe: Recipe) -> None:
    whole = dataclasses.replace(recipe, shots=None, epochs=10, epochs_by_dataset=True)
    assert whole.for_dataset("cars", epochs=35).epochs == 35
    with pytest.raises(ValueError, match="dataset cars states no number of epochs"):
        whole.for_dataset("cars", epochs=None)
    few = dataclasses.replace(whole, shots=4)
    assert [few.for_dataset("cars", epochs=epochs).epochs for epochs in (35, None)] == [10, 10]
    own = dataclasses.replace(whole, epochs_by_dataset=False)
    assert [own.for_dataset("cars", epochs=epochs).epochs for epochs in (35, None)] == [10, 10]
    assert not whole.for_dataset("cars", epochs=35).epochs_by_dataset


@pytest.mark.parametrize("name", names("recipe"))
def test_every_recipe_ends_at_its_last_share_and_never_leaves_the_peak(name: str) -> None:
    recipe = build("recipe", name)
    assert isinstance(recipe.betas, tuple)
    total = recipe.total_steps(recipe.plan(500, seed=1))
    factors = [recipe.rate_factor(step, total) for step in range(total)]
    assert max(factors) <= 1
    assert min(factors) > 0
