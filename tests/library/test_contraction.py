"""Which form of an update takes fewer multiply-adds, against counting by hand."""

from __future__ import annotations

import pytest
import torch
from configs import ADAPTER_METHODS

from randlora.adapter import Site, TwoFactorAdapter
from randlora.contraction import Widths, runs_on_activations

SQUARE = Site(name="w", out_features=768, in_features=768)
TALL = Site(name="w", out_features=3072, in_features=768)
FROZEN_LEFT = Widths(inner=768, left_trains=False, right_trains=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora", Widths(inner=4, left_trains=True, right_trains=True)),
        ("randlora", Widths(inner=768, left_trains=False, right_trains=True)),
        ("vera", Widths(inner=4, left_trains=True, right_trains=False)),
    ],
)
def test_widths_are_found_from_the_factors(name: str, expected: Widths) -> None:
    method = ADAPTER_METHODS[name].resized(4)
    adapter = method.adapt(TALL, method.shared([TALL], 1), torch.Generator())
    assert isinstance(adapter, TwoFactorAdapter)
    with torch.no_grad():
        assert Widths.of(adapter) == expected


@pytest.mark.parametrize("training", [True, False])
def test_few_tokens_take_activations_and_many_the_weight(training: bool) -> None:
    choices = [
        runs_on_activations(SQUARE, FROZEN_LEFT, tokens=tokens, training=training) for tokens in (1, 50, 6400, 100_000)
    ]
    assert choices == [True, True, False, False]


@pytest.mark.parametrize(
    ("site", "widths", "crossover"),
    [
        # 5 T k s = 2 k s^2 + T s^2 with k = s = 768
        (SQUARE, FROZEN_LEFT, 2 * 768 / 4),
        # T k (2 (in + out) + in) = 2 k in out + T in out
        (TALL, FROZEN_LEFT, 2 * 768 * 768 * 3072 / (768 * (2 * 3840 + 768) - 768 * 3072)),
        # both factors trained: T k 6 s = 3 k s^2 + T s^2
        (SQUARE, Widths(inner=512, left_trains=True, right_trains=True), 3 * 512 * 768 / (6 * 512 - 768)),
    ],
)
def test_the_crossover_is_where_the_counts_are_equal(site: Site, widths: Widths, crossover: float) -> None:
    assert runs_on_activations(site, widths, tokens=int(crossover * 0.999), training=True)
    assert not runs_on_activations(site, widths, tokens=int(crossover * 1.001) + 1, training=True)


def test_a_low_rank_update_stays_on_activations_in_training() -> None:
    low = Widths(inner=8, left_trains=True, right_trains=True)
    assert runs_on_activations(TALL, low, tokens=6400, training=True)
    assert not runs_on_activations(TALL, low, tokens=6400, training=False)
