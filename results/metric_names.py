"""Metrics with names in braces: one run answers several places of a table.

`metric: "{task}/{score}"` is filled by the overrides of a place that start with `metric.`, such as `metric.task=boolq`.
They choose among the numbers of a run and are no part of its config.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

PREFIX = "metric."
_NAME = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def names_in(metric: str) -> tuple[str, ...]:
    """Return the names in braces, each once; ValueError for a brace that is no part of one."""
    if set(_NAME.sub("", metric)) & set("{}"):
        raise ValueError(f"{metric!r} has a brace without a name; write {{name}} in small letters, such as {{task}}")
    return tuple(dict.fromkeys(_NAME.findall(metric)))


def fill(metric: str, values: Mapping[str, str]) -> str:
    """Return the metric with every name in braces that has a value replaced by it."""
    return _NAME.sub(lambda found: values.get(found[1], found[0]), metric)


def spoken(metric: str) -> str:
    """Return a metric as text for people: `{task}/accuracy` is accuracy, `{task}/{score}` score, others stay."""
    *path, last = metric.split("/")
    return "/".join([*(part for part in path if "{" not in part), _NAME.sub(r"\1", last)])


def values_of(overrides: Iterable[str]) -> dict[str, str]:
    """Return the value of each name that the overrides fill; of two for one name the last."""
    filled = (override.removeprefix(PREFIX).partition("=") for override in overrides if override.startswith(PREFIX))
    return {name: value for name, _, value in filled}


def without_names(overrides: Iterable[str]) -> tuple[str, ...]:
    """Return the overrides that belong to a run's config."""
    return tuple(override for override in overrides if not override.startswith(PREFIX))


def same_place(overrides: Sequence[str], *, defaults: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what two labels of one axis have in common only where they name the same numbers of the same runs."""
    values = {**defaults, **values_of(overrides)}
    return without_names(overrides), tuple(f"{name}={values[name]}" for name in sorted(values))
