"""The part of `randlora budget` that predicts step time and memory from a costs file."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.compose import ConfigError
from runners.formats import size_text

if TYPE_CHECKING:
    from randlora.adapter import Method, Targets
    from randlora.backbones.base import Backbone
    from randlora.cost_budgets import CostBudget

BY = ("step_time", "memory")


def check_costs(config: DictConfig, asked: str) -> bool:
    """Return whether the target is a predicted cost.

    Raises:
        ConfigError: if it is one and names no costs file, or the other way round.
    """
    if config.by is not None and (config.by not in BY or asked != "match"):
        raise ConfigError(f"by={config.by}: valid: {' or '.join(f'by={one}' for one in BY)}, with match=METHOD")
    wanted = asked in ("step_s", "memory") or config.by is not None
    named = f"by={config.by}" if config.by is not None else f"{asked}={config[asked]}"
    if wanted and config.costs is None:
        raise ConfigError(f"{named} needs costs=PATH, a costs.json that randlora bench subjects=sizes fit=true writes")
    if not wanted and config.costs is not None:
        raise ConfigError(f"costs={config.costs} goes with step_s=, memory=, or match=METHOD by=step_time|memory")
    return wanted


def cost_budget(
    config: DictConfig, asked: str, backbone: Backbone, targets: Targets, reference: Method | None
) -> CostBudget:
    """Return the budget that the config states, its costs file read and checked against the backbone.

    Args:
        config: of the verb.
        asked: `step_s`, `memory` or `match`.
        backbone: whose sites they are.
        targets: the sites.
        reference: the method to match, at its rank; None for a stated number.

    Raises:
        ConfigError: for a file that is not there or of another backbone, and a number out of range.
    """
    from randlora.cost_budgets import MemoryBudget, StepTimeBudget

    kind = StepTimeBudget if asked == "step_s" or config.by == "step_time" else MemoryBudget
    try:
        budget = _of(config, kind, config.memory if asked == "memory" else config.step_s if asked == "step_s" else 1)
        _check_backbone(config, budget, backbone, targets)
        return budget if reference is None else _of(config, kind, budget.measure(reference, targets))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def cost_row(method: Method, targets: Targets, budget: CostBudget) -> dict[str, Any]:
    """Return one method's line: size, parameters, predicted cost, errors in %, share, bytes of the file, note."""
    from randlora.budgets import percent_trained
    from randlora.cost_budgets import CostBudgetError
    from randlora.costs import CostsError
    from randlora.storage import saved_bytes

    names = ("size", "parameters", "predicted", "median_error", "largest_error", "percent", "saved_bytes", "note")
    row: dict[str, Any] = dict.fromkeys(names)
    try:
        solution = budget.solve(method, targets)
        sized, field = solution.method, method.size_field
        predicted = budget.measure(sized, targets)
    except CostBudgetError as error:
        return {**row, "note": f"unreachable: at least {budget.words(error.least)}"}
    except CostsError:
        return {**row, "note": "no prediction"}
    except ValueError as error:
        return {**row, "note": str(error)}
    above = "" if predicted <= budget.goal(targets) else ", above the budget"
    return {
        "size": f"{field} {getattr(sized, field)}" if field else None,
        "parameters": solution.reached,
        "predicted": predicted,
        "median_error": 100 * budget.model.median_error,
        "largest_error": 100 * budget.model.worst_error,
        "percent": percent_trained(sized, targets),
        "saved_bytes": saved_bytes(sized, targets),
        "note": None if field else f"no size to set{above}",
    }


def cost_shown(row: Mapping[str, Any], budget: CostBudget) -> dict[str, Any]:
    """Return a line as people read it."""
    reached = row["parameters"] is not None
    return {
        "method": row["method"],
        "size": row["size"],
        "parameters": row["parameters"],
        "predicted": f"{budget.words(row['predicted'])} ± {row['median_error']:.1f} %" if reached else None,
        "of model": f"{row['percent']:.3g} %" if reached else None,
        "saved": size_text(row["saved_bytes"]) if reached else None,
        "note": row["note"],
    }


def cost_text(budget: CostBudget, targets: Targets) -> str:
    """Return the budget in words."""
    return f"{budget.words(budget.goal(targets))} per step"


def cost_notes(budget: CostBudget) -> str:
    """Return what predictions are worth, and whether they are those of another machine."""
    model = budget.model
    text = (
        f"predictions: {budget.known.words}\n± is the median error of {len(budget.known.subjects)} measured subjects, "
        f"each predicted by the others; the largest was {100 * model.worst_error:.1f} % ({model.worst_subject})"
    )
    here, there = _this_machine(), str(budget.known.environment["device"])
    return text if there in here else f"{text}\nnote: this machine is another: {' and '.join(here)}"


def _of(config: DictConfig, kind: type[CostBudget], goal: Any) -> CostBudget:
    from randlora.cost_budgets import MemoryBudget, StepTimeBudget

    if kind is StepTimeBudget:
        return StepTimeBudget(costs=str(config.costs), seconds=goal, allow_over=False)
    return MemoryBudget(
        costs=str(config.costs), bytes=ceil(goal) if isinstance(goal, float) else goal, allow_over=False
    )


def _check_backbone(config: DictConfig, budget: CostBudget, backbone: Backbone, targets: Targets) -> None:
    known = budget.known
    if known.backbone in (None, backbone.name) and known.work.fits(targets):
        return
    same = known.backbone == backbone.name
    named = f"{known.work.sites} sites of {known.backbone}" if known.backbone else f"{known.work.sites} other sites"
    raise ConfigError(
        f"costs={config.costs} was measured on {named} ({known.title}), "
        f"and backbone={backbone.name} has {len(targets.sites)} sites; "
        + ("choose a workload of all of them" if same else f"measure {backbone.name}")
        + f" with randlora bench backbone@workload.backbone={backbone.name} subjects=sizes fit=true"
    )


def _this_machine() -> list[str]:
    import torch

    from runners.provenance import processor

    found = [f"cpu: {processor()}"]
    return found + ([f"cuda: {torch.cuda.get_device_name()}"] if torch.cuda.is_available() else [])
