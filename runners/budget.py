"""randlora budget: the size every method needs to come to the same budget on a backbone.

The budget is a number of trainable parameters, a share of the model in %, the size of the saved file, or what another
method trains; with a costs file of `randlora bench fit=true` also a predicted step time or peak memory. Needs neither
weights nor a GPU.

Examples:
  randlora budget backbone=micro_clip match=lora rank=4
  randlora budget backbone=clip_vit_b32 parameters=1e6 format=csv
  randlora budget backbone=llama3_8b percent=0.7 methods=[lora,vera,randlora_llm]
  randlora budget backbone=qwen2_0_5b bytes=4MB
  randlora budget costs=results/bench/micro/costs.json step_s=0.2
  randlora budget costs=results/bench/micro/costs.json match=lora rank=4 by=memory
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.budget_costs import check_costs, cost_budget, cost_notes, cost_row, cost_shown, cost_text
from runners.budget_options import (
    asked_target,
    method_names,
    methods_of,
    reference_method,
    stated_budget,
    that_train,
)
from runners.compose import ConfigError, instantiate
from runners.formats import FORMATS, check_format, rows_text, size_text

if TYPE_CHECKING:
    from randlora.adapter import Method, Targets
    from randlora.budgets import SizedBudget
    from randlora.cost_budgets import CostBudget

CONFIG = "budget"
WIDE = 40  # characters of a note that the table has room for


def main(config: DictConfig) -> int:
    """Print the table; return 0."""
    from randlora.budgets import MatchMethod
    from runners.plan import skeleton_targets

    check_format(config.format, FORMATS)
    asked = asked_target(config)
    by_cost = check_costs(config, asked)
    names = method_names(config)
    budget = None if asked == "match" or by_cost else stated_budget(config, asked)
    methods = methods_of({*names, config.match} if asked == "match" else names)
    shown = that_train(config, names, methods)
    backbone = instantiate(config)["backbone"]
    try:
        targets = skeleton_targets(backbone)
        reference = reference_method(config, methods[config.match], targets) if asked == "match" else None
        if by_cost:
            return _by_cost(config, cost_budget(config, asked, backbone, targets, reference), targets, shown, methods)
        if reference is not None:
            budget = MatchMethod(reference=reference, allow_over=False)
        assert budget is not None
        rows = [{"method": name, **_row(methods[name], targets, budget)} for name in shown]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.format != "text":
        print(rows_text(rows, config.format))
        return 0
    print(rows_text([_short(_shown(row)) for row in rows], "text"))
    _print_long_notes(rows)
    total = sum(targets.parameters.values())
    words = _text(config, asked, budget, targets)
    print(f"\n{backbone.name}: {len(targets.sites)} sites, {total:,} parameters; budget {words}")
    return 0


def _by_cost(
    config: DictConfig, budget: CostBudget, targets: Targets, shown: Sequence[str], methods: Mapping[str, Method]
) -> int:
    """Print the table of a budget of predicted cost; return 0."""
    rows = [{"method": name, **cost_row(methods[name], targets, budget)} for name in shown]
    if config.format != "text":
        print(rows_text(rows, config.format))
        return 0
    print(rows_text([_short(cost_shown(row, budget)) for row in rows], "text"))
    _print_long_notes(rows)
    as_method = f", as {config.match}" if config.by is not None else ""
    print(f"\n{config.backbone.name}: {len(targets.sites)} sites; budget {cost_text(budget, targets)}{as_method}")
    print(cost_notes(budget))
    return 0


def _print_long_notes(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        if _is_long(row["note"]):
            print(f"\n{row['method']}: {row['note']}")


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "note": "does not fit, see below" if _is_long(row["note"]) else row["note"]}


def _text(config: DictConfig, asked: str, budget: SizedBudget, targets: Targets) -> str:
    """Return the budget in words."""
    from randlora.budgets import MatchMethod

    goal = budget.goal(targets)
    if asked == "percent":
        return f"{goal} % of the model"
    if asked == "bytes":
        return f"{int(goal):,} bytes saved ({size_text(int(goal))})"
    size = f" of {budget.reference.size_field} {config.rank}" if config.rank and isinstance(budget, MatchMethod) else ""
    return f"{int(goal):,} parameters" + (f", as {config.match}{size}" if asked == "match" else "")


def _row(method: Method, targets: Targets, budget: SizedBudget) -> dict[str, Any]:
    """Return one method's line: size, trained parameters, error in %, share in %, bytes of the saved file, note."""
    from randlora.budgets import percent_trained
    from randlora.fitting import BudgetError
    from randlora.storage import saved_bytes

    row = dict.fromkeys(("size", "parameters", "error", "percent", "saved_bytes", "note"))
    try:
        solution = budget.solve(method, targets)
    except BudgetError as error:
        return {**row, "note": f"unreachable: at least {error.least:,}"}
    except ValueError as error:
        return {**row, "note": str(error)}
    field, sized = method.size_field, solution.method
    note = "no size to set" if field is None else None
    return {
        "size": f"{field} {getattr(sized, field)}" if field else None,
        "parameters": solution.reached,
        "error": 100 * (budget.measure(sized, targets) / budget.goal(targets) - 1),
        "percent": percent_trained(sized, targets),
        "saved_bytes": saved_bytes(sized, targets),
        "note": note if solution.in_reach else f"unreachable: at most {solution.reached:,}",
    }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line as people read it."""
    reached = row["parameters"] is not None
    return {
        "method": row["method"],
        "size": row["size"],
        "parameters": row["parameters"],
        "error": _signed(row["error"]) if reached else None,
        "of model": f"{row['percent']:.3g} %" if reached else None,
        "saved": size_text(row["saved_bytes"]) if reached else None,
        "note": row["note"],
    }


def _is_long(note: str | None) -> bool:
    """Return whether a note would make the table too wide; the ones made here do not."""
    return note is not None and len(note) > WIDE


def _signed(percent: float) -> str:
    if percent == 0:
        return "0 %"
    return f"{percent:+.1f} %" if abs(percent) >= 0.1 else f"{percent:+.2g} %"
