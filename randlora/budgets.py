"""Equal budgets: a number of parameters, a share of the model, a size of the saved file, or what a reference trains."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from randlora.adapter import Method, Targets
from randlora.checks import check_flag, check_whole, is_number
from randlora.fitting import Solution, fit
from randlora.storage import overhead_bytes, saved_bytes

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


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
class SizedBudget(Budget):
    """A budget that sets the size of a method.

    Attributes:
        allow_over: take the nearest size even if it is above the budget; otherwise the largest that is not.
    """

    allow_over: bool

    def __post_init__(self) -> None:
        check_flag(self, "allow_over")

    @abstractmethod
    def goal(self, targets: Targets) -> float:
        """Return what is asked, in the budget's own unit."""

    def measure(self, method: Method, targets: Targets) -> float:
        """Return what a method takes, in the same unit: trainable parameters unless the budget says otherwise."""
        return method.count(targets)

    def room(self, method: Method, targets: Targets) -> int:
        """Return how many trainable parameters the budget leaves the method."""
        return int(self.goal(targets))

    def solve(self, method: Method, targets: Targets) -> Solution:
        """Return the method at its best size."""
        return fit(method, targets, asked=self.room(method, targets), allow_over=self.allow_over)


@dataclass(frozen=True, kw_only=True)
class ParameterBudget(SizedBudget):
    """A number of trainable parameters in the backbone.

    Attributes:
        parameters: the number.
    """

    parameters: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "parameters")

    def goal(self, targets: Targets) -> float:
        """Return the number."""
        return self.parameters


@dataclass(frozen=True, kw_only=True)
class MatchMethod(SizedBudget):
    """As many trainable parameters as a reference method has on the same sites.

    Attributes:
        reference: the method to match, such as LoRA of rank 32.
    """

    reference: Method

    def goal(self, targets: Targets) -> float:
        """Return the reference's number."""
        return self.reference.count(targets)


@dataclass(frozen=True, kw_only=True)
class PercentBudget(SizedBudget):
    """A share of the model, as the paper's Table 15 counts it (see :func:`percent_trained`).

    Attributes:
        percent: the share in %, above 0 and below 100.
    """

    percent: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.percent) or not 0 < self.percent < 100:
            raise ValueError(f"PercentBudget.percent = {self.percent!r}; valid: a number above 0 and below 100")

    def goal(self, targets: Targets) -> float:
        """Return the share in %."""
        return self.percent

    def measure(self, method: Method, targets: Targets) -> float:
        """Return the method's share in %."""
        return percent_trained(method, targets)

    def room(self, method: Method, targets: Targets) -> int:
        """Return ``base p / (100 - p)``, the numbers to add to the base that make up p % of the sum."""
        return math.floor(_base(targets) * self.percent / (100 - self.percent))


@dataclass(frozen=True, kw_only=True)
class BytesBudget(SizedBudget):
    """The size of the saved adapter file, without a head (see :func:`randlora.storage.saved_bytes`).

    Attributes:
        bytes: a number of bytes, or text such as ``4MB`` (4,000,000) or ``4MiB`` (4,194,304).
    """

    bytes: int | str

    def __post_init__(self) -> None:
        super().__post_init__()
        number_of_bytes(self.bytes)

    def goal(self, targets: Targets) -> float:
        """Return the number of bytes."""
        return number_of_bytes(self.bytes)

    def measure(self, method: Method, targets: Targets) -> float:
        """Return the size of the method's file."""
        return saved_bytes(method, targets)

    def room(self, method: Method, targets: Targets) -> int:
        """Return how many float32 numbers fit beside the file's header at the method's largest size."""
        sized = method.size_field is not None and targets.sites
        largest = method.resized(method.largest_size(targets)) if sized else method
        return (number_of_bytes(self.bytes) - overhead_bytes(largest, targets)) // 4


def number_of_bytes(value: object) -> int:
    """Return the number of bytes that a number or a text with a unit states.

    Raises:
        ValueError: if it is neither, or less than one byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([a-z]*)\s*", str(value).lower())
    if not isinstance(value, bool) and found and found[2] in UNITS:
        number = round(float(found[1]) * UNITS[found[2]])
        if number >= 1:
            return number
    raise ValueError(
        f"bytes = {value!r}; valid: a number of bytes, or one with a unit: kB, MB, GB (thousands) or KiB, MiB, GiB"
    )


def percent_trained(method: Method, targets: Targets) -> float:
    """Return what a method trains in % of the model, adapters included: ``trained / (base + adapters)``.

    The base is the full fine-tuning scope: the whole of a language model, the image tower of a vision-only backbone.
    """
    trained = method.count(targets)
    added = trained if method.adds_parameters else 0
    return 100 * trained / (_base(targets) + added)


def _base(targets: Targets) -> int:
    """Return the number of parameters of the base; raises ValueError where the targets do not say."""
    base = sum(targets.parameters.values())
    if base == 0:
        raise ValueError("a share of the model needs the model's parameters, and these targets list none")
    return base
