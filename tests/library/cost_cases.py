"""A step small enough to count by hand, and methods on it."""

from __future__ import annotations

import dataclasses
from functools import cache

from configs import METHODS

from randlora.adapter import Method, Site, Targets
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.features import Features, features_of
from randlora.work import Work

OUT, IN, ROWS = 24, 16, 40
LAYER = Targets(
    sites=(Site(name="0.weight", out_features=OUT, in_features=IN),), parameters={"0.weight": OUT * IN, "0.bias": OUT}
)
WORK = Work.of(LAYER, {"0.weight": ROWS}, "float32")
SMALL = Work.of(LAYER, {"0.weight": 4}, "float32")
REBUILD = Execution(adapted_weights="rebuild")
SITES = {"a": (24, 16), "b": (16, 40), "c": (24, 16)}
MIXED = Targets(
    sites=tuple(Site(name=name, out_features=out, in_features=in_) for name, (out, in_) in SITES.items()),
    parameters={name: out * in_ for name, (out, in_) in SITES.items()},
)


def load_method(name: str, **fields: object) -> Method:
    return dataclasses.replace(METHODS[name], **fields)


@cache
def of(method: Method, work: Work = WORK, execution: Execution = DEFAULT_EXECUTION) -> Features:
    features = features_of(method, work, execution)
    assert features is not None
    return features
