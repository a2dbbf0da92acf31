"""Budgets of a method's cost: the time of a training step, or its peak memory, as `randlora bench` predicts them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from randlora.adapter import AdapterMethod, Method, Targets
from randlora.budgets import SizedBudget, number_of_bytes
from randlora.checks import check_positive, check_text
from randlora.costs import CostModel, Costs, CostsError, read_costs
from randlora.features import Features, features_of
from randlora.fitting import Solution

EXHAUSTIVE = 32  # sizes of which each is looked at
LEVEL = 12  # sizes looked at at once where there are more


class CostBudgetError(ValueError):
    """A cost that a method does not come down to.

    Attributes:
        least: the smallest predicted cost found, in the budget's own unit.
    """

    def __init__(self, message: str, *, least: float) -> None:
        super().__init__(message)
        self.least = least


@dataclass(frozen=True, kw_only=True)
class CostBudget(SizedBudget):
    """The largest method whose predicted cost is within the budget.

    Predictions hold for the machine, model, batch and precision of the costs file, and for adapters that run as
    :data:`randlora.execution.DEFAULT_EXECUTION`. Up to 32 sizes are all looked at; of more, a few at equal ratios, then
    those between the neighbours of the best. The note of a solution states the prediction and how far predictions
    of the file were off.

    Attributes:
        costs: path of a file of ``randlora bench fit=true``, absolute or from the working directory.
        allow_over: take the size of the nearest cost among those looked at, even if it is above the budget.
    """

    unit: ClassVar[str]
    costs: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "costs")

    @cached_property
    def known(self) -> Costs:
        """The content of the costs file; raises CostsError."""
        return read_costs(self.costs)

    @property
    @abstractmethod
    def model(self) -> CostModel:
        """The model of the cost."""

    @abstractmethod
    def words(self, cost: float) -> str:
        """Return a cost in words."""

    def measure(self, method: Method, targets: Targets) -> float:
        """Return the predicted cost.

        Raises:
            CostsError: if the file was measured on other sites, or there is no prediction for the method.
        """
        self._check(targets)
        return self._cost(method)

    def solve(self, method: Method, targets: Targets) -> Solution:
        """Return the method at the size with the most parameters among those within the budget.

        Raises:
            CostsError: as :meth:`measure`.
            CostBudgetError: if no size is within the budget.
            ValueError: if the method fits the sites at no size.
        """
        self._check(targets)
        if method.size_field is None or not isinstance(method, AdapterMethod):
            cost = self._cost(method)
            above = f", above the budget of {self.words(self.goal(targets))}" if cost > self.goal(targets) else ""
            note = f"{type(method).__name__} has no size to match a budget with; {self.note(cost)}{above}"
            return Solution(method=method, asked=None, reached=method.count(targets), note=note)
        best = self._search(method, targets)
        sized = method.resized(best.size)
        return Solution(method=sized, asked=None, reached=best.parameters, note=self.note(best.cost))

    def note(self, cost: float) -> str:
        """Return what the reader of a table must know of a prediction."""
        return (
            f"predicted {self.words(cost)} per step, median error {100 * self.model.median_error:.1f} %, largest "
            f"{100 * self.model.worst_error:.1f} % ({self.known.words})"
        )

    def _check(self, targets: Targets) -> None:
        if not self.known.work.fits(targets):
            where = f" of {self.known.backbone}" if self.known.backbone else ""
            raise CostsError(
                f"{self.costs} was measured on {self.known.work.sites} sites{where} ({self.known.title}); these "
                f"{len(targets.sites)} sites are others. Measure them with randlora bench subjects=sizes fit=true"
            )

    def _cost(self, method: Method) -> float:
        features: Features | None = features_of(method, self.known.work)
        if features is None:
            raise CostsError(f"there is no prediction for {type(method).__name__}: it is no adapter of this library")
        return self.model.predict(features)

    def _search(self, method: AdapterMethod, targets: Targets) -> _Size:
        goal, looked = self.goal(targets), _Looked(self, method)
        sizes: Iterable[int] = _level(1, method.largest_size(targets))
        while sizes:
            looked.at(sizes, goal=None if self.allow_over else goal)
            best = looked.best(goal, allow_over=self.allow_over)
            sizes = looked.between_neighbours(best.size, largest=method.largest_size(targets))
        if best.cost > goal and not self.allow_over:
            raise CostBudgetError(
                f"a budget of {self.words(goal)} per step is out of reach of {type(method).__name__}, which takes "
                f"{self.words(best.cost)} or more; raise the budget or set budget.allow_over=true",
                least=best.cost,
            )
        return best


@dataclass(frozen=True, kw_only=True)
class StepTimeBudget(CostBudget):
    """A time of one training step.

    Attributes:
        seconds: the time.
    """

    unit: ClassVar[str] = "s"
    seconds: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "seconds")

    @property
    def model(self) -> CostModel:
        """The model of step time."""
        return self.known.seconds

    def goal(self, targets: Targets) -> float:
        """Return the number of seconds."""
        return self.seconds

    def words(self, cost: float) -> str:
        """Return a time in words."""
        return f"{1e3 * cost:,.1f} ms"


@dataclass(frozen=True, kw_only=True)
class MemoryBudget(CostBudget):
    """A peak of the memory of one training step.

    Attributes:
        bytes: a number of bytes, or text such as ``500MB`` (500,000,000) or ``500MiB``.
    """

    unit: ClassVar[str] = "bytes"
    bytes: int | str

    def __post_init__(self) -> None:
        super().__post_init__()
        number_of_bytes(self.bytes)

    @property
    def model(self) -> CostModel:
        """The model of peak memory."""
        return self.known.bytes

    def goal(self, targets: Targets) -> float:
        """Return the number of bytes."""
        return number_of_bytes(self.bytes)

    def words(self, cost: float) -> str:
        """Return a memory in words."""
        return f"{cost / 1e6:,.1f} MB"


@dataclass(frozen=True, kw_only=True)
class _Size:
    size: int
    parameters: int
    cost: float


class _Looked:
    """The sizes of a method that were looked at."""

    def __init__(self, budget: CostBudget, method: AdapterMethod) -> None:
        self.budget = budget
        self.method = method
        self.tried: set[int] = set()
        self.known: dict[int, _Size] = {}
        self.problem: ValueError | None = None

    def at(self, sizes: Iterable[int], *, goal: float | None) -> None:
        """Look at sizes; with a goal, at those alone that have more parameters than any found within it."""
        parameters = {}
        for size in sizes:
            self.tried.add(size)
            try:
                parameters[size] = self._parameters(size)
            except ValueError as error:
                self.problem = error
        for size in sorted(parameters, key=lambda size: -parameters[size]):
            if goal is not None and parameters[size] <= self._found(goal):
                break
            cost = self.budget._cost(self.method.resized(size))
            self.known[size] = _Size(size=size, parameters=parameters[size], cost=cost)
        if not self.known:
            raise ValueError(f"{type(self.method).__name__} fits these sites at no size: {self.problem}")

    def best(self, goal: float, *, allow_over: bool) -> _Size:
        """Return the most parameters within the goal, else the least cost; or the nearest cost."""
        if allow_over:
            return min(self.known.values(), key=lambda one: (abs(one.cost - goal), -one.parameters))
        within = [one for one in self.known.values() if one.cost <= goal]
        if within:
            return max(within, key=lambda one: (one.parameters, -one.cost))
        return min(self.known.values(), key=lambda one: one.cost)

    def between_neighbours(self, size: int, *, largest: int) -> list[int]:
        """Return sizes not tried yet between a size and the tried ones beside it."""
        low = max((one for one in self.tried if one < size), default=0)
        high = min((one for one in self.tried if one > size), default=largest + 1)
        return [one for one in _level(low + 1, high - 1) if one not in self.tried]

    def _found(self, goal: float) -> int:
        return max((one.parameters for one in self.known.values() if one.cost <= goal), default=0)

    def _parameters(self, size: int) -> int:
        method = self.method.resized(size)
        groups = self.budget.known.work.groups
        for group in groups:
            method.check_site(group.site)
        return sum(group.sites * method.n_trainable(group.site) for group in groups)


def _level(first: int, last: int) -> list[int]:
    """Return all sizes of a range, or where there are many some at equal ratios, both ends included."""
    if last - first < EXHAUSTIVE:
        return list(range(first, last + 1))
    ratio = (last / first) ** (1 / (LEVEL - 1))
    return sorted({round(first * ratio**step) for step in range(LEVEL)})
