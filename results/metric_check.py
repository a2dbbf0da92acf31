"""Whether the metric of a table file can be filled at every place, and is a number that runs have."""

from __future__ import annotations

from collections.abc import Iterator

from results.measures import COSTS
from results.metric_names import PREFIX, names_in, values_of
from results.table import TableSpec


class MetricError(ValueError):
    """The metric of a table, or what fills a name of it, is not valid; `key` is where in the file."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def check_metric(spec: TableSpec) -> None:
    """Raise MetricError unless every override that fills a name is meant and every place of the table has a metric."""
    try:
        names = names_in(spec.metric)
    except ValueError as error:
        raise MetricError("metric", str(error)) from error
    valid = ", ".join(f"{PREFIX}{name}" for name in names) or "none, because metric has no name in braces"
    for key, override in _fillings(spec):
        name, _, value = override.removeprefix(PREFIX).partition("=")
        if name not in names:
            raise MetricError(key, f"does not know {PREFIX}{name}; it takes {valid}")
        if not value or set(value) & set("{}"):
            raise MetricError(key, f"{override!r} fills no name; write {PREFIX}{name}=value")
        if any(key.startswith(f"axes.{axis}.") for axis in spec.repeat):
            raise MetricError(key, f"fills {PREFIX}{name}, but repeats have a mean only of one metric")
    _check_filled(spec, names)


def _fillings(spec: TableSpec) -> Iterator[tuple[str, str]]:
    """The overrides that fill names, and where in the file they stand."""
    parts = [("fixed", spec.fixed)]
    parts += [(f"axes.{axis}.{label}", own) for axis, labels in spec.axes.items() for label, own in labels.items()]
    for one in spec.also:
        parts.append(("also.overrides", one.overrides))
        if set(one.where) & set(spec.repeat) and values_of(one.overrides):
            raise MetricError("also.where", "tells repeats apart, but they have a mean only of one metric")
    for key, overrides in parts:
        for override in overrides:
            if override.startswith("metric="):
                raise MetricError(key, f"{override!r} is no choice; fill a name in braces with {PREFIX}name=value")
            if override.startswith(PREFIX):
                yield key, override


def _check_filled(spec: TableSpec, names: tuple[str, ...]) -> None:
    for cell in spec.cells() if names else ():
        for name in names_in(cell.metric):
            place = ", ".join(f"{axis} {label}" for axis, label in cell.labels.items())
            raise MetricError(
                "metric", f"has no {name} at {place}; give {PREFIX}{name}=value under fixed, at a label or under also"
            )
    for metric in {cell.metric for cell in spec.cells()} if names else {spec.metric}:
        if metric.startswith("cost/"):
            if metric not in COSTS:
                raise MetricError("metric", f"does not know {metric!r}; it takes {', '.join(COSTS)}")
            if not spec.relative:
                raise MetricError("metric", f"{metric} is no fraction; say under relative what it is a share of")
