"""The validation split is the one that the datasets library draws."""

from __future__ import annotations

import pytest

from randlora.data.errors import DataError
from randlora.data.questions_split import split_validation


@pytest.mark.parametrize(("n", "count", "seed"), [(15_119, 120, 42), (500, 120, 42), (10, 3, 7)])
def test_it_is_that_of_the_published_script(n: int, count: int, seed: int) -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"position": list(range(n))})
    theirs = rows.train_test_split(test_size=count, shuffle=True, seed=seed)
    train, held_out = split_validation(n, count, seed)
    assert list(train) == theirs["train"]["position"][:]
    assert list(held_out) == theirs["test"]["position"][:]
    assert sorted((*train, *held_out)) == list(range(n))


def test_it_leaves_something_to_train_on() -> None:
    with pytest.raises(DataError, match="120 of 120 training questions are to be held out"):
        split_validation(120, 120, 42)
    with pytest.raises(ValueError, match="count = 0; valid: a whole number from 1"):
        split_validation(120, 0, 42)
