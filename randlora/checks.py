"""Checks of hyper-parameters, with errors that name the field and what is valid."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(owner: object, name: str, valid: Sequence[object]) -> None:
    """Raise ValueError unless the attribute is one of the valid values."""
    value = getattr(owner, name)
    if value not in valid:
        raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: {', '.join(map(repr, valid))}")


def check_positive(owner: object, *names: str) -> None:
    """Raise ValueError unless each attribute is a number above zero."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: a number above 0")


def check_whole(owner: object, *names: str) -> None:
    """Raise ValueError unless each attribute is a whole number of 1 or more."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: a whole number of 1 or more")
