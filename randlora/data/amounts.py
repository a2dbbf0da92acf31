"""Amounts of images: a number, or a share of what there is."""

from __future__ import annotations

from fractions import Fraction

from randlora.checks import is_number


def amount(asked: float | None, count: int, *, up: bool = False) -> int:
    """Return how many of ``count`` images a number (an int) or a share (a float; rounded down, or ``up``) asks for."""
    if isinstance(asked, int):
        return asked
    exact = Fraction(str(asked)) * count
    return -(-exact.numerator // exact.denominator) if up else int(exact)


def check_amount(owner: object, *names: str) -> None:
    """Raise ValueError unless each attribute is a share (a float above 0 and below 1) or a number (an int from 1)."""
    for name in names:
        value = getattr(owner, name)
        fits = is_number(value) and (value >= 1 if isinstance(value, int) else 0 < value < 1)
        if not fits:
            raise ValueError(
                f"{type(owner).__name__}.{name} = {value!r}; valid: a share above 0 and below 1, or a number from 1"
            )
