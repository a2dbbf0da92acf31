"""Equal parameter budgets: the size of a method that comes closest to a number of trainable parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from randlora.adapter import Method, Targets
from randlora.checks import check_flag, check_whole

NEAR = 0.9  # share of a budget below which a method's largest size counts as unable to reach it


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A method resized to a budget.

    Attributes:
        method: the method to run.
        asked: parameters asked for, or None without a budget.
        reached: parameters it trains.
        note: what the reader of a table must know, such as that the budget could not be reached; None if nothing.
    """

    method: Method
    asked: int | None
    reached: int
    note: str | None = None


class Budget(ABC):
    """A rule that gives the number of trainable parameters every method may have."""

    @abstractmethod
    def solve(self, method: Method, targets: Targets) -> Solution:
        """Return the method at this budget on the targets."""


@dataclass(frozen=True, kw_only=True)
class Unlimited(Budget):
    """Every method keeps the size it states."""

    def solve(self, method: Method, targets: Targets) -> Solution:
        """Return the method as it is."""
        return Solution(method=method, asked=None, reached=method.count(targets))


@dataclass(frozen=True, kw_only=True)
class ParameterBudget(Budget):
    """A number of trainable parameters in the backbone.

    Attributes:
        parameters: the number.
        allow_over: take the nearest size even if it is above the budget; otherwise the largest that is not.
    """

    parameters: int
    allow_over: bool

    def __post_init__(self) -> None:
        check_whole(self, "parameters")
        check_flag(self, "allow_over")

    def solve(self, method: Method, targets: Targets) -> Solution:
        """Return the method at its best size."""
        return fit(method, targets, asked=self.parameters, allow_over=self.allow_over)


@dataclass(frozen=True, kw_only=True)
class MatchMethod(Budget):
    """As many trainable parameters as a reference method has on the same sites.

    Attributes:
        reference: the method to match, such as LoRA of rank 32.
        allow_over: as in :class:`ParameterBudget`.
    """

    reference: Method
    allow_over: bool

    def __post_init__(self) -> None:
        check_flag(self, "allow_over")

    def solve(self, method: Method, targets: Targets) -> Solution:
        """Return the method at its best size."""
        return fit(method, targets, asked=self.reference.count(targets), allow_over=self.allow_over)


def fit(method: Method, targets: Targets, *, asked: int, allow_over: bool = False) -> Solution:
    """Return the method at the size whose count is nearest to ``asked``, from below unless ``allow_over``.

    A method without a size keeps what it trains. One that cannot come near says so in the note, with what it reaches.
    """
    if method.size_field is None or not targets.sites:
        return Solution(method=method, asked=asked, reached=method.count(targets), note=_without_size(method))
    counts = {size: method.resized(size).count(targets) for size in _candidate_sizes(method, targets, asked=asked)}
    allowed = {size: count for size, count in counts.items() if allow_over or count <= asked}
    if not allowed:
        smallest = min(counts.values())
        raise ValueError(
            f"a budget of {asked:,} parameters is out of reach of {type(method).__name__}, which trains {smallest:,} "
            f"or more on these {len(targets.sites)} sites; raise the budget or set budget.allow_over=true"
        )
    size = min(allowed, key=lambda size: (abs(allowed[size] - asked), size))
    reached = allowed[size]
    note = None
    if reached < NEAR * asked and reached == max(counts.values()):
        note = (
            f"{type(method).__name__} cannot reach the budget of {asked:,} parameters: "
            f"at most {reached:,} ({method.size_field} {size})"
        )
    return Solution(method=method.resized(size), asked=asked, reached=reached, note=note)


def _candidate_sizes(method: Method, targets: Targets, *, asked: int) -> range:
    """Return every size up to the largest; for sizes that cost parameters, none far beyond the budget."""
    largest = method.largest_size(targets)
    if largest > 4096:
        growth = method.resized(2).count(targets) - method.resized(1).count(targets)
        if growth > 0:
            largest = min(largest, asked // growth + 2)
    return range(1, largest + 1)


def _without_size(method: Method) -> str | None:
    return f"{type(method).__name__} has no size to match a budget with" if method.trains_backbone else None
