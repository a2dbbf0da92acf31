"""What a record states of a run beside its scores: counts, notes and reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from randlora.fitting import Solution
    from randlora.inject import Adaptation
    from randlora.tasks.base import Objective


def parameters_of(solution: Solution, adaptation: Adaptation, objective: Objective) -> dict[str, Any]:
    """Return the counts of a run: the fields of :class:`results.record.Parameters` but the size of what is saved."""
    adapter = adaptation.n_trainable()
    head = sum(parameter.numel() for parameter in objective.head.parameters())
    total = sum(parameter.numel() for parameter in objective.parameters())
    return {
        "adapter": adapter,
        "head": head,
        "frozen": total - adapter - head,
        "predicted": solution.reached,
        "budget_asked": solution.asked,
        "budget_reached": solution.reached if solution.asked is not None else None,
        "budget_note": solution.note,
    }


def left_beside(adaptation: Adaptation) -> tuple[str, ...]:
    """Return a note where merging has left adapters."""
    if not adaptation.sites:
        return ()
    count = len(adaptation.sites)
    return (f"{count} quantised weights were judged with their adapters beside them, not merged, and not audited",)
