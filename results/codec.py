"""Strict JSON for frozen dataclasses: what the type hints do not allow is an error that says where it stands."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Decoder = Callable[[Any, str], Any]
ADDED_LATER = "added later"  # metadata of a field that older files lack; it has a default


class CodecError(ValueError):
    """A value does not fit its declared type; the message starts with the place, such as `timing.steps`."""


def plain(value: Any, *, where: str) -> Any:
    """Copy `value` into dicts with string keys, lists, strings, finite numbers, booleans and None.

    Dataclasses become dicts and any other Mapping or sequence its plain form. Integers stay integers, so `1` and
    `1.0` differ (one shot is not the whole training set). Raises CodecError for anything JSON cannot hold.
    """
    if type(value) in _SIMPLE:
        return value
    if type(value) is dict:
        return _plain_mapping(value, where)
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CodecError(f"{where}: {value} is not finite; leave a number that does not exist out")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), where=f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _plain_mapping(value, where)
    if isinstance(value, list | tuple):
        # most items are simple, and saying where each stands would take most of the time
        return [
            item if type(item) in _SIMPLE else plain(item, where=f"{where}[{index}]")
            for index, item in enumerate(value)
        ]
    raise CodecError(f"{where}: {type(value).__name__} cannot be stored; convert it to a string or a number first")


def decode(kind: type[T], value: Any, *, where: str) -> T:
    """Build the dataclass `kind` from parsed JSON; every declared field must be there and no other.

    A field with ``ADDED_LATER`` in its metadata may be absent and then has its default.

    Raises CodecError for an unknown or missing field or a wrong type. What `kind` itself raises passes through.
    """
    return typing.cast(T, _decoder(typing.cast(Any, kind))(value, where))


def _plain_mapping(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise CodecError(f"{where}: key {wrong[0]!r} is not a string")
    return {key: item if type(item) in _SIMPLE else plain(item, where=f"{where}.{key}") for key, item in value.items()}


@functools.cache
def _decoder(kind: Any) -> Decoder:
    """Return what decodes a value of this type. The type hints are looked at once, for files come in thousands."""
    if kind is Any:
        return lambda value, where: value
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(typing.cast(type, kind))
    if kind is float:
        return _decode_float
    if isinstance(kind, type) and not typing.get_origin(kind):
        return _simple_decoder(kind)
    return _generic_decoder(typing.get_origin(kind), typing.get_args(kind))


def _decode_float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("a number", value, where)
    return float(value)


def _simple_decoder(kind: type) -> Decoder:
    def decode_simple(value: Any, where: str) -> Any:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _wrong(_NAMES.get(kind, kind.__name__), value, where)
        return value

    return decode_simple


def _generic_decoder(origin: Any, arguments: tuple[Any, ...]) -> Decoder:
    if origin in (types.UnionType, typing.Union):
        (alternative,) = (argument for argument in arguments if argument is not type(None))
        inner = _decoder(alternative)
        nullable = type(None) in arguments
        return lambda value, where: None if value is None and nullable else inner(value, where)
    if origin is Literal:
        return lambda value, where: _one_of(arguments, value, where)
    if origin is tuple:
        return _tuple_decoder(_decoder(arguments[0]))
    return _mapping_decoder(None if arguments[1] is Any else _decoder(arguments[1]))


def _one_of(valid: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in valid:
        raise _wrong("one of " + ", ".join(map(repr, valid)), value, where)
    return value


def _tuple_decoder(inner: Decoder) -> Decoder:
    def decode_tuple(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong("a list", value, where)
        return tuple(inner(item, f"{where}[{index}]") for index, item in enumerate(value))

    return decode_tuple


def _mapping_decoder(inner: Decoder | None) -> Decoder:
    def decode_mapping(value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong("an object", value, where)
        return value if inner is None else {key: inner(item, f"{where}.{key}") for key, item in value.items()}

    return decode_mapping


def _dataclass_decoder(kind: type) -> Decoder:
    hints = typing.get_type_hints(kind)
    fields = {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(kind)}
    later = {field.name for field in dataclasses.fields(kind) if field.metadata.get(ADDED_LATER)}

    def decode_dataclass(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong("an object", value, where)
        if missing := fields.keys() - value.keys() - later:
            raise CodecError(f"{where}: missing {', '.join(sorted(missing))}")
        if unknown := value.keys() - fields.keys():
            raise CodecError(f"{where}: unknown {', '.join(sorted(unknown))}; known are {', '.join(fields)}")
        return kind(**{name: inner(value[name], f"{where}.{name}") for name, inner in fields.items() if name in value})

    return decode_dataclass


def _wrong(expected: str, value: Any, where: str) -> CodecError:
    shown = repr(value)
    return CodecError(f"{where}: expected {expected}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


_NAMES: Mapping[type, str] = {int: "an integer", str: "a string", bool: "true or false"}
_SIMPLE = frozenset({str, int, bool, type(None)})
