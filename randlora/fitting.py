"""The size of a method that comes closest to a number of trainable parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from randlora.adapter import AdapterMethod, Method, Site, Targets

NEAR = 0.9  # share of a budget below which a method's largest size counts as unable to reach it


class BudgetError(ValueError):
    """A budget that a method cannot keep.

    Attributes:
        least: the fewest parameters the method trains.
    """

    def __init__(self, message: str, *, least: int) -> None:
        super().__init__(message)
        self.least = least


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A method resized to a budget.

    Attributes:
        method: the method to run.
        asked: trainable parameters that the budget allows, or None without a budget.
        reached: parameters it trains.
        note: what the reader of a table must know, such as that the budget could not be reached; None if nothing.
        in_reach: false where the largest count of the method is well below the budget.
    """

    method: Method
    asked: int | None
    reached: int
    note: str | None = None
    in_reach: bool = True


def fit(method: Method, targets: Targets, *, asked: int, allow_over: bool = False) -> Solution:
    """Return the method at the size whose count is nearest to ``asked``, from below unless ``allow_over``.

    A method without a size keeps what it trains. One that cannot come near says so in the note, with what it reaches.

    Raises:
        BudgetError: if the smallest count is above the budget.
        ValueError: if the method fits the sites at no size.
    """
    if method.size_field is None or not targets.sites:
        return Solution(method=method, asked=asked, reached=method.count(targets), note=_without_size(method))
    counts = _counts(method, targets, asked=asked)
    allowed = {size: count for size, count in counts.items() if allow_over or count <= asked}
    if not allowed:
        least = min(counts.values())
        raise BudgetError(
            f"a budget of {max(asked, 0):,} parameters is out of reach of {type(method).__name__}, which trains "
            f"{least:,} or more on these {len(targets.sites)} sites; raise the budget or set budget.allow_over=true",
            least=least,
        )
    size = min(allowed, key=lambda size: (abs(allowed[size] - asked), size))
    reached = allowed[size]
    note = None
    if reached < NEAR * asked and reached == max(counts.values()):
        note = (
            f"{type(method).__name__} cannot reach the budget of {asked:,} parameters: "
            f"at most {reached:,} ({method.size_field} {size})"
        )
    return Solution(method=method.resized(size), asked=asked, reached=reached, note=note, in_reach=note is None)


def _counts(method: Method, targets: Targets, *, asked: int) -> Mapping[int, int]:
    """Return the number of trainable parameters at every size that fits the sites and may be the best."""
    groups = _groups(targets)
    counts: dict[int, int] = {}
    problem: ValueError | None = None
    for size in _candidate_sizes(method, targets, groups, asked=asked):
        try:
            sized = method.resized(size)
            if isinstance(sized, AdapterMethod):
                for site in groups:
                    sized.check_site(site)
            counts[size] = _count(sized, targets, groups)
        except ValueError as error:
            problem = error
    if not counts:
        raise ValueError(f"{type(method).__name__} fits these {len(targets.sites)} sites at no size: {problem}")
    return counts


def _groups(targets: Targets) -> Mapping[Site, int]:
    """Return one site of each shape and how many there are: large models repeat a handful of shapes."""
    first: dict[tuple[object, ...], Site] = {}
    groups: dict[Site, int] = {}
    for site in targets.sites:
        site = first.setdefault((site.out_features, site.in_features, site.transposed, site.linear), site)
        groups[site] = groups.get(site, 0) + 1
    return groups


def _count(method: Method, targets: Targets, groups: Mapping[Site, int]) -> int:
    if isinstance(method, AdapterMethod) and type(method).count is AdapterMethod.count:
        return sum(number * method.n_trainable(site) for site, number in groups.items())
    return method.count(targets)


def _candidate_sizes(method: Method, targets: Targets, groups: Mapping[Site, int], *, asked: int) -> Iterable[int]:
    """Return the sizes that may be the best: all of them, or of a count that is linear in the size those near it."""
    largest = method.largest_size(targets)
    probes = sorted({1, 2, 3, 5, 7, largest // 3, largest // 2, largest - 1, largest} & set(range(1, largest + 1)))
    try:
        counts = [_count(method.resized(size), targets, groups) for size in probes]
    except ValueError:  # some sizes fit and others do not: each is looked at
        return range(1, largest + 1)
    slope = counts[1] - counts[0] if len(counts) > 1 else 0
    if slope <= 0 or any(n != counts[0] + slope * (size - 1) for size, n in zip(probes, counts, strict=True)):
        return range(1, largest + 1)
    below = 1 + (asked - counts[0]) // slope
    return sorted({min(max(size, 1), largest) for size in (1, below, below + 1, largest)})


def _without_size(method: Method) -> str | None:
    return f"{type(method).__name__} has no size to match a budget with" if method.trains_backbone else None
