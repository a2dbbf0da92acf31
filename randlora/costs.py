"""Step time and peak memory of a method, predicted from what its updates take and from one benchmark.

A prediction is the measured cost of the frozen model and a sum over features of the method, each at a fitted price. It
holds for the machine, model, batch and precision of the benchmark, and says how far it was off where it could be
checked.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randlora.features import FEATURES, UNITS, Features
from randlora.work import SiteGroup, Work

SCHEMA = 1


class CostsError(ValueError):
    """A costs file that cannot be used, or a method without a prediction."""


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
        unknown = used - set(FEATURES)
        if unknown:
            raise ValueError(f"no feature is called {', '.join(sorted(unknown))}")
        return Costs(**body, seconds=seconds, bytes=bytes, subjects=subjects, work=Work(groups=groups, **work))
    except KeyError as error:
        raise CostsError(f"{path} is no costs file: it lacks {error}; {how}") from error
    except (TypeError, ValueError) as error:
        raise CostsError(f"cannot read {path} as a costs file: {error}; {how}") from error
