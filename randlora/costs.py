"""Step time and peak memory of a method, predicted from what its updates take and from one benchmark.

A prediction is the measured cost of the frozen model and a sum over features of the method, each at a fitted price. It
holds for the machine, model, batch and precision of the benchmark, and says how far it was off where it could be
checked.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from randlora.adapter import AdapterMethod, Method, Site, Targets
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.footprint import Footprint, Precision, footprint_of, shared_shapes

SCHEMA = 1
ADAM_STATES = 2  # numbers that AdamW keeps per trained number, and one float32 per tensor


class CostsError(ValueError):
    """A costs file that cannot be used, or a method without a prediction."""


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


@dataclass(frozen=True, kw_only=True)
class Features(Footprint):
    """What a method adds to a step of the frozen model: the sum of its footprints, and what is there once.

    Attributes:
        sites: adapted weights.
        state_bytes: of trained parameters that are not the model's own, and of AdamW's state.
        shared_bytes: of the tensors that a method keeps once per model.
        gradient_bytes: of the gradients of the trained parameters.
    """

    sites: int
    state_bytes: int
    shared_bytes: int
    gradient_bytes: int


UNITS: Mapping[str, str] = {
    "sites": "site",
    "tensors": "trained tensor",
    "calls": "operation started",
    "trained": "trained number",
    "update_operations": "floating-point operation",
    "weight_operations": "floating-point operation",
    "traffic_bytes": "byte",
    "state_bytes": "byte",
    "shared_bytes": "byte",
    "gradient_bytes": "byte",
    "input_bytes": "byte",
    "weight_bytes": "byte",
    "factor_bytes": "byte",
}
TIME = ("sites", "tensors", "calls", "trained", "update_operations", "weight_operations", "traffic_bytes")
RESIDENT = ("state_bytes", "shared_bytes")  # there during the whole step: their price is one
KEPT = ("input_bytes", "weight_bytes", "factor_bytes")  # there as the backward pass begins
UPDATING = {"gradient_bytes": 2.0}  # there while AdamW runs: the gradients, and temporary memory of the same size


def features_of(method: Method, work: Work, execution: Execution = DEFAULT_EXECUTION) -> Features | None:
    """Return the features of a method, or None where there is no way to tell.

    There is none for methods that change the model by other means than adapters of this library, for compact bases and
    for accumulation over micro-batches.

    Raises:
        ValueError: if the method does not fit a site.
    """
    if not method.trains_backbone:
        return Features(**dict.fromkeys(_NAMES, 0))
    if isinstance(method, AdapterMethod):
        known = execution.bases == "full" and not execution.accumulate
        return _of_adapters(method, work, rebuilt=execution.adapted_weights == "rebuild") if known else None
    return None if method.adds_parameters else _of_scope(work)


def _of_adapters(method: AdapterMethod, work: Work, *, rebuilt: bool) -> Features:
    for group in work.groups:
        method.check_site(group.site)
    shared = shared_shapes(method, [group.site for group in work.groups])
    total = Counter[str]()
    for group in work.groups:
        one = footprint_of(
            method, group.site, shared=shared, rows=group.rows, precision=work.precision, rebuilt=rebuilt
        )
        for field in dataclasses.fields(one):
            total[field.name] += group.sites * getattr(one, field.name)
    buffers = [] if shared is None else list(shared.buffers())
    width = 4  # adapters train in float32
    return Features(
        **total,
        sites=work.sites,
        state_bytes=(1 + ADAM_STATES) * width * total["trained"] + width * total["tensors"],
        shared_bytes=sum(one.numel() * one.element_size() for one in buffers),
        gradient_bytes=width * total["trained"],
    )


def _of_scope(work: Work) -> Features:
    """Return the features of training the scope itself; sites are taken to be in it."""
    width = 2 if work.precision == "bfloat16_weights" else 4
    activation = 4 if work.precision == "float32" else 2
    areas = [(group, group.sites * group.rows * group.in_features) for group in work.groups]
    nothing = dict.fromkeys(_NAMES, 0)
    return Features(
        **nothing
        | {
            "weight_operations": sum(2 * area * group.out_features for group, area in areas),
            "input_bytes": sum(activation * area for _, area in areas),
            "trained": work.scope_parameters,
            "tensors": work.scope_tensors,
            "state_bytes": ADAM_STATES * width * work.scope_parameters + 4 * work.scope_tensors,
            "gradient_bytes": width * work.scope_parameters,
        }
    )


_NAMES = tuple(field.name for field in dataclasses.fields(Features))


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """How one cost follows from features: the larger of two sums, on top of what both have in common.

    Attributes:
        constant: part of every cost, measured on the frozen model.
        common: prices of the features that both sums have in common, in the unit of the cost per unit of the feature.
        usual: measured on the frozen model, for the sum with ``prices``.
        prices: of the features in the usual sum; fitted.
        other: prices of the features in the other sum, which decides where it is larger.
        median_error: median of how far predictions of subjects left out of the fit were off, as a share.
        worst_error: the largest.
        worst_subject: whose it was.
    """

    constant: float
    common: Mapping[str, float]
    usual: float
    prices: Mapping[str, float]
    other: Mapping[str, float]
    median_error: float
    worst_error: float
    worst_subject: str

    def predict(self, features: Features) -> float:
        """Return the cost."""
        common = self.constant + priced(features, self.common)
        return common + max(self.usual + priced(features, self.prices), priced(features, self.other))


def priced(features: Features, prices: Mapping[str, float]) -> float:
    """Return the sum of features at their prices."""
    return sum(price * getattr(features, name) for name, price in prices.items())


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What `randlora bench fit=true` found out; the content of a costs file.

    Attributes:
        title: of the workload.
        case: its case, which names the batch.
        backbone: its name, where the workload runs a backbone.
        workload: the composed `conf/workload`.
        environment: where and with what it was measured.
        work: the step.
        subjects: labels of those fitted.
        seconds: the model of step time.
        bytes: the model of peak memory.
    """

    title: str
    case: str
    backbone: str | None
    workload: Mapping[str, Any]
    environment: Mapping[str, Any]
    work: Work
    subjects: tuple[str, ...]
    seconds: CostModel
    bytes: CostModel

    @property
    def words(self) -> str:
        """What was measured, in words."""
        where = f"{self.environment['device']}, {self.environment['threads']} threads"
        return f"{self.title}, {self.case}, {self.work.precision}, {where}"

    def to_json(self) -> str:
        """Return the content of the file."""
        body = {"schema": SCHEMA, **dataclasses.asdict(self), "units": dict(UNITS)}
        return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_costs(path: str | Path) -> Costs:
    """Read a costs file.

    Raises:
        CostsError: if it is not there, or is no costs file of this schema; the message says which command makes one.
    """
    how = "make one with randlora bench subjects=sizes fit=true"
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CostsError(f"there is no costs file {path}; {how}") from error
    except (OSError, ValueError) as error:
        raise CostsError(f"cannot read {path} as a costs file: {error}; {how}") from error
    if not isinstance(body, dict) or body.pop("schema", None) != SCHEMA:
        raise CostsError(f"{path} is no costs file of schema {SCHEMA}; {how}")
    try:
        body.pop("units")
        work = dict(body.pop("work"))
        groups = tuple(SiteGroup(**group) for group in work.pop("groups"))
        seconds, bytes = (CostModel(**body.pop(name)) for name in ("seconds", "bytes"))
        subjects = tuple(body.pop("subjects"))
        used = {name for model in (seconds, bytes) for name in (*model.common, *model.prices, *model.other)}
        unknown = used - set(_NAMES)
        if unknown:
            raise ValueError(f"no feature is called {', '.join(sorted(unknown))}")
        return Costs(**body, seconds=seconds, bytes=bytes, subjects=subjects, work=Work(groups=groups, **work))
    except KeyError as error:
        raise CostsError(f"{path} is no costs file: it lacks {error}; {how}") from error
    except (TypeError, ValueError) as error:
        raise CostsError(f"cannot read {path} as a costs file: {error}; {how}") from error


def _shape_of(site: Site) -> tuple[Any, ...]:
    return (site.out_features, site.in_features, site.transposed, site.linear)
