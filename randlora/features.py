"""What a method adds to a training step, in numbers that have a price: tensors, operations, bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from randlora.adapter import AdapterMethod, Method
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.footprint import Footprint, footprint_of, shared_shapes
from randlora.work import Work

ADAM_STATES = 2  # numbers that AdamW keeps per trained number, and one float32 per tensor


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
        return Features(**dict.fromkeys(FEATURES, 0))
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
    nothing = dict.fromkeys(FEATURES, 0)
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


FEATURES = tuple(field.name for field in dataclasses.fields(Features))
