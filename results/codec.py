"""Strict JSON for frozen dataclasses: what the type hints do not allow is an error that says where it stands."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")
ADDED_LATER = "added later"  # metadata of a field that older files lack; it has a default


class CodecError(ValueError):
    """A value does not fit its declared type; the message starts with the place, such as `timing.steps`."""


def plain(value: Any, *, where: str) -> Any:
    """Copy `value` into dicts with string keys, lists, strings, finite numbers, booleans and None.

    Dataclasses become dicts and any other Mapping or sequence its plain form. Integers stay integers, so `1` and
    `1.0` differ (one shot is not the whole training set). Raises CodecError for anything JSON cannot hold.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CodecError(f"{where}: {value} is not finite; leave a number that does not exist out")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), where=f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise CodecError(f"{where}: key {wrong[0]!r} is not a string")
        return {key: plain(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where=f"{where}[{index}]") for index, item in enumerate(value)]
    raise CodecError(f"{where}: {type(value).__name__} cannot be stored; convert it to a string or a number first")


def decode(kind: type[T], value: Any, *, where: str) -> T:
    """Build the dataclass `kind` from parsed JSON; every declared field must be there and no other.

    A field with ``ADDED_LATER`` in its metadata may be absent and then has its default.

    Raises CodecError for an unknown or missing field or a wrong type. What `kind` itself raises passes through.
    """
    return typing.cast(T, _decode(kind, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), value, where)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong("a number", value, where)
        return float(value)
    if isinstance(kind, type) and not typing.get_origin(kind):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _wrong(_NAMES.get(kind, kind.__name__), value, where)
        return value
    return _decode_generic(kind, value, where)


def _decode_generic(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _decode(inner, value, where)
    if origin is Literal:
        if value not in arguments:
            raise _wrong("one of " + ", ".join(map(repr, arguments)), value, where)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong("a list", value, where)
        return tuple(_decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if not isinstance(value, dict):
        raise _wrong("an object", value, where)
    return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong("an object", value, where)
    hints = _hints(kind)
    missing, unknown = hints.keys() - value.keys(), value.keys() - hints.keys()
    missing -= _added_later(kind)
    if missing:
        raise CodecError(f"{where}: missing {', '.join(sorted(missing))}")
    if unknown:
        raise CodecError(f"{where}: unknown {', '.join(sorted(unknown))}; known are {', '.join(hints)}")
    present = {name: hint for name, hint in hints.items() if name in value}
    return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in present.items()})


@functools.cache
def _added_later(kind: type) -> frozenset[str]:
    """Return the fields that older files lack and that then have their default."""
    return frozenset(field.name for field in dataclasses.fields(kind) if field.metadata.get(ADDED_LATER))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _wrong(expected: str, value: Any, where: str) -> CodecError:
    shown = repr(value)
    return CodecError(f"{where}: expected {expected}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


_NAMES: Mapping[type, str] = {int: "an integer", str: "a string", bool: "true or false"}
