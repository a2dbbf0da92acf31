"""Prices of features from measured costs: non-negative least squares, checked by leaving each subject out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from randlora.costs import CostModel, priced
from randlora.features import Features

OTHER_DECIDES = 1.1  # up to so many times the other sum, a measured cost is taken to be that sum


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted model and its check.

    Attributes:
        model: fitted to all subjects.
        predicted: of each subject, by the model fitted to all others.
    """

    model: CostModel
    predicted: Mapping[str, float]


def fit(
    features: Mapping[str, Features],
    measured: Mapping[str, float],
    start: CostModel,
    *,
    fitted: Sequence[str],
) -> Fit:
    """Fit the prices that make the relative errors of predictions smallest in the sum of squares.

    Subjects whose cost is the model's other sum say nothing about the prices; they are predicted all the same.

    Args:
        features: of each subject.
        measured: its cost.
        start: the model but for prices and errors.
        fitted: names of the features whose prices are fitted; none is negative.

    Raises:
        ValueError: for fewer than three subjects, or costs that are not above zero.
    """
    if len(features) < 3:
        raise ValueError(f"a fit needs three subjects or more besides the frozen model, and has {len(features)}")
    if min(measured.values()) <= 0:
        raise ValueError("a cost of zero or less cannot be fitted")
    predicted = {}
    for label, one in features.items():
        others = {other: features[other] for other in features if other != label}
        predicted[label] = replace(start, prices=_prices(others, measured, start, fitted)).predict(one)
    errors = {label: abs(value / measured[label] - 1) for label, value in predicted.items()}
    worst = max(errors, key=lambda label: errors[label])
    model = replace(
        start,
        prices=_prices(features, measured, start, fitted),
        median_error=statistics.median(errors.values()),
        worst_error=errors[worst],
        worst_subject=worst,
    )
    return Fit(model=model, predicted=predicted)


def unfitted(
    *,
    constant: float = 0.0,
    common: Sequence[str] = (),
    usual: float = 0.0,
    other: Mapping[str, float] | None = None,
) -> CostModel:
    """Return the model that :func:`fit` starts from; common features have a price of one."""
    return CostModel(
        constant=constant,
        common=dict.fromkeys(common, 1.0),
        usual=usual,
        prices={},
        other=other or {},
        median_error=0.0,
        worst_error=0.0,
        worst_subject="",
    )


def _prices(
    features: Mapping[str, Features], measured: Mapping[str, float], model: CostModel, fitted: Sequence[str]
) -> dict[str, float]:
    rows, target = [], []
    for label, one in features.items():
        common = model.constant + priced(one, model.common)
        if measured[label] - common <= OTHER_DECIDES * priced(one, model.other):
            continue
        rows.append([getattr(one, name) / measured[label] for name in fitted])
        target.append((measured[label] - common - model.usual) / measured[label])
    if not rows:
        raise ValueError("no subject says anything about the prices; measure smaller ones beside these")
    return dict(zip(fitted, nonnegative_least_squares(rows, target), strict=True))


def nonnegative_least_squares(rows: Sequence[Sequence[float]], target: Sequence[float]) -> list[float]:
    """Return the x of 0 or more that makes ``|rows x - target|`` smallest (Lawson and Hanson 1974, chapter 23).

    Columns are scaled to unit length first; one of zeros gets 0.
    """
    matrix, wanted = torch.tensor(rows, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    lengths = matrix.norm(dim=0)
    scale = torch.where(lengths > 0, lengths, 1)
    matrix = matrix / scale
    x = torch.zeros(matrix.shape[1], dtype=torch.float64)
    free = torch.zeros(len(x), dtype=torch.bool)
    tolerance = 1e-12 * max(float(wanted.norm()), 1e-300)
    for _ in range(100 * len(x)):
        gradient = matrix.T @ (wanted - matrix @ x)
        gradient[free] = -torch.inf
        if bool(free.all()) or float(gradient.max()) <= tolerance:
            break
        free[int(gradient.argmax())] = True
        x = _inner(matrix, wanted, x, free)
    return (x / scale).tolist()


def _inner(matrix: Tensor, wanted: Tensor, x: Tensor, free: Tensor) -> Tensor:
    """Move to the least squares of the free columns, giving up those that would turn negative on the way."""
    while True:
        best = torch.zeros_like(x)
        best[free] = torch.linalg.lstsq(matrix[:, free], wanted[:, None], driver="gelsd").solution[:, 0]
        blocking = free & (best <= 0)
        if not bool(blocking.any()):
            return best
        steps = x[blocking] / (x[blocking] - best[blocking]).clamp(min=1e-300)
        x = x + float(steps.min()) * (best - x)
        free &= x > 1e-14
        x = torch.where(free, x, 0.0)
