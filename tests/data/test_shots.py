from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_images import ROOT

from randlora.data.errors import DataError
from randlora.data.images import ImageDataset
from randlora.data.shots import class_orders, few_shot, fraction, split_validation

SIZES = (40, 25, 60)


@pytest.fixture
def labels() -> torch.Tensor:
    ordered = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(7))]


def test_shots_are_balanced_and_each_count_starts_with_the_one_before(labels: torch.Tensor) -> None:
    previous = torch.empty(0, dtype=torch.int64)
    for shots in range(1, 26):
        chosen = few_shot(labels, shots, seed=1)
        assert labels[chosen].bincount().tolist() == [shots] * 3
        assert chosen.unique().numel() == 3 * shots
        assert torch.equal(chosen[: len(previous)], previous)
        previous = chosen


def test_shots_depend_on_the_seed_alone(labels: torch.Tensor) -> None:
    torch.manual_seed(0)
    chosen = few_shot(labels, 4, seed=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(few_shot(labels, 4, seed=1), chosen)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(few_shot(labels, 4, seed=2), chosen)


def test_shots_of_a_class_ignore_the_other_classes(labels: torch.Tensor) -> None:
    others = torch.where(labels == 2, 1, labels)
    chosen, changed = few_shot(labels, 5, seed=3), few_shot(others, 5, seed=3)
    assert torch.equal(chosen[labels[chosen] == 0], changed[others[changed] == 0])
    assert not torch.equal(chosen[labels[chosen] == 1], changed[others[changed] == 1])


def test_short_class_is_an_error_or_gives_all_it_has(labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"class 1 \('dog'\) has 25 training images, 0 of them held out .* 30 shots"):
        few_shot(labels, 30, seed=1, classes=["cat", "dog", "eel"])
    taken = few_shot(labels, 30, seed=1, short_class="take_all")
    assert labels[taken].bincount().tolist() == [30, 25, 30]
    assert torch.equal(taken[:75], few_shot(labels, 25, seed=1))


@pytest.mark.parametrize("seed", range(3))
def test_validation_never_meets_shots_or_fractions_and_changes_no_shot(labels: torch.Tensor, seed: int) -> None:
    held_out = split_validation(labels, seed=seed, per_class=9)
    assert labels[held_out].bincount().tolist() == [9, 9, 9]
    for shots in (1, 4, 16):
        chosen = few_shot(labels, shots, seed=seed, held_out=held_out)
        assert not torch.isin(chosen, held_out).any()
        assert torch.equal(chosen, few_shot(labels, shots, seed=seed))
    everything = fraction(labels, 1.0, seed=seed, held_out=held_out)
    assert torch.equal(torch.cat([everything, held_out]).sort().values, torch.arange(len(labels)))


def test_shots_that_would_need_held_out_images_are_an_error(labels: torch.Tensor) -> None:
    held_out = split_validation(labels, seed=1, per_class=10)
    assert len(few_shot(labels, 15, seed=1, held_out=held_out)) == 45
    with pytest.raises(
        DataError, match=r"class 1 has 25 training images, 10 of them held out .* 16 shots.* at most 15"
    ):
        few_shot(labels, 16, seed=1, held_out=held_out)
    taken = few_shot(labels, 16, seed=1, held_out=held_out, short_class="take_all")
    assert labels[taken].bincount().tolist() == [16, 15, 16]
    assert not torch.isin(taken, held_out).any()


def test_validation_count_is_spread_evenly_and_nested(labels: torch.Tensor) -> None:
    eight, nine = (split_validation(labels, seed=1, count=count) for count in (8, 9))
    assert labels[eight].bincount().tolist() == [3, 3, 2]
    assert torch.equal(nine[:8], eight)
    assert torch.equal(nine, split_validation(labels, seed=1, per_class=3))
    orders = class_orders(labels, seed=1)
    assert nine[:3].tolist() == [int(order[-1]) for order in orders.values()]


def test_validation_failures(labels: torch.Tensor) -> None:
    for arguments in ({}, {"per_class": 1, "count": 1}, {"per_class": 0}, {"count": -1}):
        with pytest.raises(ValueError, match="give exactly one of the two, as a number from 1"):
            split_validation(labels, seed=1, **arguments)
    with pytest.raises(DataError, match=r"class 1 has 25 training images; holding out 25 .* at most 24 per class"):
        split_validation(labels, seed=1, per_class=25)


def test_fractions_are_nested_random_and_of_the_right_size(labels: torch.Tensor) -> None:
    quarter, half = fraction(labels, 0.25, seed=1), fraction(labels, 0.5, seed=1)
    assert (len(quarter), len(half)) == (31, 62)
    assert torch.equal(half[:31], quarter)
    assert half.unique().numel() == 62
    assert not torch.equal(fraction(labels, 0.5, seed=2), half)
    assert torch.equal(fraction(labels, 1.0, seed=1).sort().values, torch.arange(125))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_fraction_outside_its_range_is_an_error(labels: torch.Tensor, share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        fraction(labels, share, seed=1)


def test_selection_of_nothing_is_an_error(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="shots start at 1"):
        few_shot(labels, 0, seed=1)
    with pytest.raises(DataError, match="is no image"):
        fraction(labels, 0.001, seed=1)
    with pytest.raises(DataError, match="no training images"):
        few_shot(labels[:0], 1, seed=1)


@pytest.mark.parametrize("name", ["mini_mnist", "pets3"])
def test_selection_from_an_embedded_dataset_holds_no_test_image(
    embedded: Callable[[str], ImageDataset], name: str
) -> None:
    dataset = embedded(name)
    train, test = (dataset.load(part=part, size=32, root=ROOT) for part in ("train", "test"))
    tested = {image.numpy().tobytes() for image in test.images}
    for seed in (1, 2, 3):
        held_out = split_validation(train.labels, seed=seed, per_class=20)
        for chosen in (
            few_shot(train.labels, 16, seed=seed, held_out=held_out),
            fraction(train.labels, 0.5, seed=seed),
        ):
            assert not tested & {image.numpy().tobytes() for image in train.images[chosen]}
        assert not tested & {image.numpy().tobytes() for image in train.images[held_out]}
