"""Checks of hyper-parameters, with errors that name the field and what is valid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard


def check_choice(owner: object, name: str, valid: Sequence[object]) -> None:
    """Raise ValueError unless the attribute is one of the valid values."""
    value = getattr(owner, name)
    if value not in valid:
        raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: {', '.join(map(repr, valid))}")


def check_positive(owner: object, *names: str) -> None:
    """Raise ValueError unless each attribute is a number above zero."""
    for name in names:
        value = getattr(owner, name)
        if not is_number(value) or value <= 0:
            raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: a number above 0")


def check_whole(owner: object, *names: str, least: int = 1) -> None:
    """Raise ValueError unless each attribute is a whole number of ``least`` or more."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: a whole number of {least} or more")


def check_share(owner: object, *names: str, zero: bool = True, one: bool = True) -> None:
    """Raise ValueError unless each attribute is a number from 0 to 1, with or without each end."""
    for name in names:
        value = getattr(owner, name)
        if not is_number(value) or not 0 <= value <= 1 or (value == 0 and not zero) or (value == 1 and not one):
            ends = f"{'from' if zero else 'above'} 0 {'to' if one else 'and below'} 1"
            raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: a number {ends}")


def check_flag(owner: object, *names: str) -> None:
    """Raise ValueError unless each attribute is true or false."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, bool):
            raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: true or false")


def check_text(owner: object, *names: str, optional: bool = False) -> None:
    """Raise ValueError unless each attribute is a non-empty string, or None where ``optional``."""
    for name in names:
        value = getattr(owner, name)
        if optional and value is None:
            continue
        if not isinstance(value, str) or not value:
            valid = "a string, or null" if optional else "a string"
            raise ValueError(f"{type(owner).__name__}.{name} = {value!r}; valid: {valid}")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
