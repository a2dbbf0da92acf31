"""Which training images are used: few shots per class, a fraction, a held-out validation set.

Every class has one seeded permutation of its images. Shots are taken from its front and validation images from its
end, so more shots contain fewer shots, and holding out validation images never changes which shots are drawn. All
functions work on the labels of the training split only; the test split cannot be reached from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch

from randlora.data.errors import DataError
from randlora.seeds import generator_for

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

ShortClass = Literal["error", "take_all"]


def few_shot(
    labels: Int64[Tensor, " n"],
    shots: int,
    *,
    seed: int,
    held_out: Int64[Tensor, " v"] | None = None,
    short_class: ShortClass = "error",
    classes: Sequence[str] | None = None,
) -> Int64[Tensor, " k"]:
    """Return ``shots`` positions per class: the first shot of every class, then the second of every class, and so on.

    The result for k shots starts with the result for k - 1. A class's shots depend on the seed and on the positions of
    its own images, not on other classes. ``held_out`` positions (from ``split_validation``) are never returned.

    Args:
        labels: label of every training image.
        shots: images per class, at least 1.
        seed: seed of the run.
        held_out: positions that must stay unused.
        short_class: what to do with a class of fewer images than ``shots``: stop, or take all it has.
        classes: words of the classes, for the error message.

    Raises:
        ValueError: for fewer than 1 shot or another ``short_class``.
        DataError: if a class has too few images left and ``short_class`` is ``error``, or there are no images at all.
    """
    if shots < 1 or short_class not in get_args(ShortClass):
        raise ValueError(
            f"few_shot(shots={shots}, short_class={short_class!r}): shots start at 1, short_class is one of "
            f"{get_args(ShortClass)}"
        )
    orders = class_orders(labels, seed=seed)
    columns = []
    for label, order in orders.items():
        free = _without(order, held_out)
        if len(free) < shots and short_class == "error":
            name = f"class {label}" if classes is None else f"class {label} ({classes[label]!r})"
            taken = len(order) - len(free)
            raise DataError(
                f"{name} has {len(order)} training images, {taken} of them held out for validation, but {shots} shots "
                f"were asked for; ask for at most {len(free)}, hold out fewer, or set short_class: take_all"
            )
        columns.append(free[:shots])
    rounds = [[column[k] for column in columns if k < len(column)] for k in range(shots)]
    return torch.tensor([int(index) for one in rounds for index in one], dtype=torch.int64)


def fraction(
    labels: Int64[Tensor, " n"], share: float, *, seed: int, held_out: Int64[Tensor, " v"] | None = None
) -> Int64[Tensor, " k"]:
    """Return a random share of the positions that are not held out; larger shares contain smaller ones.

    Not balanced over classes, as in the paper (section 4: a random half of the training images).

    Raises:
        ValueError: if ``share`` is outside (0, 1].
        DataError: if it amounts to no image.
    """
    if not 0 < share <= 1:
        raise ValueError(f"fraction(share={share}): the share of the training images lies above 0 and up to 1")
    order = _without(torch.randperm(len(labels), generator=generator_for(seed, "fraction")), held_out)
    count = round(share * len(order))
    if count == 0:
        raise DataError(f"a share of {share} of {len(order)} training images is no image; ask for more")
    return order[:count]


def split_validation(
    labels: Int64[Tensor, " n"], *, seed: int, per_class: int | None = None, count: int | None = None
) -> Int64[Tensor, " v"]:
    """Return the positions to hold out for validation: ``per_class`` of every class, or ``count`` spread evenly.

    They come from the end of each class's permutation: the last of every class, then the second to last, and so on.

    Raises:
        ValueError: unless exactly one of ``per_class`` and ``count`` is given, as a number from 1.
        DataError: if a class would keep no training image.
    """
    asked = [number for number in (per_class, count) if number is not None]
    if len(asked) != 1 or asked[0] < 1:
        raise ValueError(
            f"split_validation(per_class={per_class}, count={count}): give exactly one of the two, as a number from 1"
        )
    orders = class_orders(labels, seed=seed)
    rounds = asked[0] if per_class is not None else -(-asked[0] // max(len(orders), 1))
    for label, order in orders.items():
        if len(order) <= rounds:
            raise DataError(
                f"class {label} has {len(order)} training images; holding out {rounds} for validation leaves none "
                f"to train on: hold out at most {len(order) - 1} per class"
            )
    held_out = [int(order[-1 - k]) for k in range(rounds) for order in orders.values()]
    return torch.tensor(held_out[: None if per_class is not None else asked[0]], dtype=torch.int64)


def class_orders(labels: Int64[Tensor, " n"], *, seed: int) -> dict[int, Int64[Tensor, " c"]]:
    """Return the seeded permutation of the positions of each class, by label in ascending order.

    Raises:
        DataError: if there are no labels.
    """
    if len(labels) == 0:
        raise DataError("there are no training images to select from")
    orders = {}
    for label in labels.unique(sorted=True).tolist():
        positions = (labels == label).nonzero().flatten()
        order = torch.randperm(len(positions), generator=generator_for(seed, "shots", label))
        orders[label] = positions[order]
    return orders


def _without(order: Int64[Tensor, " c"], held_out: Int64[Tensor, " v"] | None) -> Int64[Tensor, " f"]:
    return order if held_out is None else order[~torch.isin(order, held_out)]
