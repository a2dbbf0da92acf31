"""What differs between two configs, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "absent"
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field whose value changed; `old` and `new` are JSON, None where there is no such field."""

    field: str
    old: str | None
    new: str | None


def changes(old: Any, new: Any) -> tuple[Change, ...]:
    """Return what differs between two configs in plain data, in the order of the new one.

    Fields are named as in overrides, items of lists of equal length by their number. `1` and `1.0` differ, as they do
    for run ids.
    """
    return tuple(_changes(old, new, ""))


def shortened(value: Any) -> str:
    """Return a value as JSON of a length that fits a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _changes(old: Any, new: Any, where: str) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in (*new, *(name for name in old if name not in new)):
            place = f"{where}.{name}" if where else str(name)
            if name not in old or name not in new:
                yield Change(field=place, old=_text(old, name), new=_text(new, name))
            else:
                yield from _changes(old[name], new[name], place)
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _changes(one, other, f"{where}[{number}]")
    elif json.dumps(old) != json.dumps(new):
        yield Change(field=where, old=json.dumps(old), new=json.dumps(new))


def _text(group: Mapping[str, Any], name: str) -> str | None:
    return json.dumps(group[name]) if name in group else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
