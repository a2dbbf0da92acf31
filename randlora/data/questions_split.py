"""The validation split of the published commonsense script (paper, section C.4)."""

from __future__ import annotations

from randlora.data.errors import DataError


def split_validation(n: int, count: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions trained on and those held out, of ``n`` training questions, each in a shuffled order.

    They are those of ``train_test_split(test_size=count, shuffle=True, seed=seed)`` of the ``datasets`` library: the
    first ``count`` of numpy's permutation are held out. The paper holds 120 out with seed 42, whatever a run's seed.

    Args:
        n: number of training questions.
        count: how many are held out, from 1.
        seed: of the permutation.

    Raises:
        ValueError: for a count below 1.
        DataError: if no question would be left to train on.
    """
    import numpy as np

    if count < 1:
        raise ValueError(f"split_validation: count = {count!r}; valid: a whole number from 1")
    if count >= n:
        raise DataError(
            f"{count:,} of {n:,} training questions are to be held out for validation, which leaves none to train on; "
            "hold out fewer, or none"
        )
    order = np.random.default_rng(seed).permutation(n).tolist()
    return tuple(order[count:]), tuple(order[:count])
