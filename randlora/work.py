"""A training step, as far as the cost of a method depends on it: shapes of sites, and the rows they are applied to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from randlora.adapter import Site, Targets
from randlora.footprint import Precision


@dataclass(frozen=True, kw_only=True)
class SiteGroup:
    """Sites of one shape that are applied to as many rows.

    Attributes:
        out_features: see :class:`randlora.adapter.Site`, as for the next three.
        in_features: columns of the matrix.
        transposed: stored as in x out.
        linear: applied by its own module.
        rows: input rows in one step.
        sites: how many there are.
    """

    out_features: int
    in_features: int
    transposed: bool
    linear: bool
    rows: int
    sites: int

    @cached_property
    def site(self) -> Site:
        """One site that stands for all."""
        return Site(name=f"{self.out_features} x {self.in_features}", **self._shape)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What methods see of the sites."""
        return tuple(self._shape.values())

    @property
    def _shape(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("out_features", "in_features", "transposed", "linear")}


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training step, as far as the cost of a method depends on it.

    Attributes:
        groups: the sites.
        precision: see `runners/benchmark/cases.py`.
        scope_parameters: numbers that full fine-tuning trains.
        scope_tensors: tensors that it trains.
    """

    groups: tuple[SiteGroup, ...]
    precision: Precision
    scope_parameters: int
    scope_tensors: int

    @classmethod
    def of(cls, targets: Targets, rows: Mapping[str, int], precision: Precision) -> Self:
        """Return the work of a step in which each site's weight is applied to ``rows[site.name]`` rows."""
        counts = Counter((*_shape_of(site), rows[site.name]) for site in targets.sites)
        groups = tuple(
            SiteGroup(out_features=out, in_features=in_, transposed=turned, linear=linear, rows=count, sites=number)
            for (out, in_, turned, linear, count), number in counts.items()
        )
        parameters = targets.parameters
        return cls(
            groups=groups,
            precision=precision,
            scope_parameters=sum(parameters.values()),
            scope_tensors=len(parameters),
        )

    def fits(self, targets: Targets) -> bool:
        """Return whether targets have as many sites of each shape."""
        own: Counter[tuple[Any, ...]] = Counter()
        for group in self.groups:
            own[group.shape] += group.sites
        return own == Counter(map(_shape_of, targets.sites))

    @property
    def sites(self) -> int:
        """The number of sites."""
        return sum(group.sites for group in self.groups)


def _shape_of(site: Site) -> tuple[Any, ...]:
    return (site.out_features, site.in_features, site.transposed, site.linear)
