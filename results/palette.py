"""One colour and one shape per method, the same in every picture.

The colours are darker shades of Okabe and Ito's palette: told apart with any colour vision, and dark enough to write
names in. The shapes tell lines apart in print.
"""

from __future__ import annotations

import re

INK = "#222222"
_SPARE = ("#3B4CC0", "#7A4A2B", "#56B4E9", "#8C8C00")
_SPARE_SHAPES = "X*hp"
_METHODS = {
    "randlora": ("#C44601", "*"),
    "lora": ("#0072B2", "o"),
    "vera": ("#00805E", "D"),
    "nola": ("#A86E00", "^"),
    "dora": ("#B5508C", "v"),
    "kradapter": ("#3B4CC0", "h"),
    "full": ("#000000", "s"),
    "fullfinetuning": ("#000000", "s"),
    "ft": ("#000000", "s"),
    "zero": ("#6B6B6B", "p"),
    "linear": ("#7A4A2B", "d"),
}


def colour_of(name: str, index: int) -> str:
    """Return the colour of a method by the word its name starts with, or by its index in the picture."""
    known = _known(name)
    return known[0] if known is not None else _SPARE[index % len(_SPARE)]


def shape_of(name: str, index: int) -> str:
    """Return the marker of a method, as :func:`colour_of` does its colour."""
    known = _known(name)
    return known[1] if known is not None else _SPARE_SHAPES[index % len(_SPARE_SHAPES)]


def marker_size(shape: str) -> float:
    """Return the size in points at which a marker looks as large as the others."""
    return 11.0 if shape == "*" else 6.5


def _known(name: str) -> tuple[str, str] | None:
    word = re.match(r"[a-z]+", name.lower().replace("_", " "))
    return None if word is None else _METHODS.get(word[0])
