"""randlora plan: what a table takes before it is run.

Cells done and left; of every method its parameters, the budget, steps, operations and the most memory of training, and,
where a machine was measured, hours; which data sets and weights are not here, and the disk they need. Memory and
operations come from one training step on tensors without memory: it needs no weights, no data and no GPU.
docs/PLANNING.md says what is counted and how far predictions were off.

Examples:
  randlora plan table=demo
  randlora plan table=demo device=cuda                              for a GPU, from a machine without one
  randlora plan table=demo throughput=results/bench/micro/micro.json
  randlora plan table=demo device=cuda flops_per_s=8e13             a rate you know your GPU to reach
  randlora plan table=commonsense_llama3 device=cuda machine.recompute_blocks=true
  randlora plan table=commonsense_llama3 device=cuda tokens=160     texts of another length than the longest
  randlora plan table=demo to=plan.md
  randlora plan table=demo format=json > plan.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.compose import ConfigError, instantiate
from runners.formats import check_format

if TYPE_CHECKING:
    from runners.machine import Machine
    from runners.planning.forecast import Forecaster
    from runners.planning.report import Report
    from runners.planning.rows import Pair
    from runners.planning.throughput import Throughput
    from runners.tables import PlannedTable

CONFIG = "plan"
FORMATS = ("text", "markdown", "csv", "json")
ENDINGS = {".md": "markdown", ".csv": "csv", ".json": "json"}
FORWARDED = ("machine",)


def main(config: DictConfig) -> int:
    """Print the plan; return 0, or 1 where a method could not be predicted."""
    check_format(config.format, FORMATS)
    to = _target(config.to)
    rate = _rate(config)
    _check_tokens(config.tokens)
    machine: Machine = instantiate(config)["machine"]
    device, precision = _planned_for(config, machine)
    report = plan(config, machine, device=device, precision=precision, rate=rate)
    print(report.render(config.format))
    if to is not None:
        from results.files import write_text

        print(write_text(to, report.render(ENDINGS[to.suffix]).rstrip("\n") + "\n"), file=sys.stderr)
    return 1 if any(row["problem"] for row in report.rows) else 0


def plan(config: DictConfig, machine: Machine, *, device: Any, precision: Any, rate: float | None) -> Report:
    """Return the plan of a table.

    Raises:
        ConfigError: if there is no such table, a cell does not compose, or the throughput does not go with the plan.
    """
    from runners.plan import QuestionRun
    from runners.planning.cells import plan_cells
    from runners.planning.forecast import Forecaster
    from runners.planning.image_forecast import ImageSteps
    from runners.planning.needs import find_needs
    from runners.planning.progress import prediction_progress
    from runners.planning.report import Report
    from runners.planning.rows import group_cells, row_of
    from runners.planning.text_forecast import TextSteps
    from runners.tables import plan_table, store_of

    overrides = [str(override) for override in config.hydra.overrides.task]
    forwarded = [one for one in overrides if one.partition("=")[0].partition(".")[0] in FORWARDED]
    table: PlannedTable = plan_table(config.table, forwarded=forwarded)
    scan = store_of(machine.results).scan()
    for problem in scan.problems:
        print(f"warning: {problem.path} cannot be used: {problem.reason}", file=sys.stderr)
    cells = plan_cells(table, scan.records, tokens=config.tokens)
    forecaster: Forecaster = Forecaster(
        images=ImageSteps(device=device, precision=precision), questions=TextSteps(device=device, precision=precision)
    )
    with prediction_progress() as on_progress:
        forecaster.learn(cells, on_progress=on_progress)
    pairs: list[Pair] = [(cell, forecaster.forecast(cell)) for cell in cells]
    throughput = _throughput(config, pairs, device=device, precision=precision, rate=rate)
    rows = [
        row_of(label, group, throughput=throughput, forecaster=forecaster)
        for label, group in group_cells(table.spec, pairs).items()
    ]
    unknown = {cell.run.dataset.name for cell in cells if cell.work.steps is None}
    return Report(
        table=table.spec.name,
        title=table.spec.title,
        device=device,
        precision=precision,
        cells=len(table.planned),
        tokens=sorted({cell.work.size for cell in cells if isinstance(cell.run, QuestionRun)}),
        rows=rows,
        unknown_sizes=sorted(unknown),
        needs=find_needs(table, cells),
        throughput=throughput,
    )


def _throughput(
    config: DictConfig, pairs: list[Pair], *, device: str, precision: str, rate: float | None
) -> Throughput | None:
    from runners.planning.throughput import from_benchmark, from_records, given

    if rate is not None:
        return given(rate)
    if config.throughput is not None:
        return from_benchmark(Path(str(config.throughput)).expanduser(), device=device, precision=precision)
    return from_records(pairs, device=device, precision=precision)


def _planned_for(config: DictConfig, machine: Machine) -> tuple[str, str]:
    """Return the kind of device and the precision that are planned for."""
    for name, valid in (("device", ("auto", "cpu", "cuda")), ("precision", ("auto", "float32", "bfloat16"))):
        if config[name] not in valid:
            raise ConfigError(f"{name}={config[name]}: valid: {', '.join(valid)}")
    try:
        here = machine.torch_device().type
        device = here if config.device == "auto" else config.device
        if config.precision != "auto":
            return device, config.precision
        if machine.precision != "auto" or device == here:
            return device, machine.training_precision()
    except ValueError as error:
        raise ConfigError(f"{error}; to plan for a GPU that is not here, use device=cuda") from error
    return device, "bfloat16" if device == "cuda" else "float32"


def _rate(config: DictConfig) -> float | None:
    value = config.flops_per_s
    if value is None:
        return None
    if config.throughput is not None:
        raise ConfigError("throughput and flops_per_s are two answers to one question; give one of them")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"flops_per_s={value}: valid: a number above 0, such as 8e13")
    return float(value)


def _check_tokens(tokens: Any) -> None:
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise ConfigError(f"tokens={tokens}: valid: a whole number of tokens from 1, or null for the recipe's cutoff")


def _target(to: Any) -> Path | None:
    if to is None:
        return None
    path = Path(str(to)).expanduser()
    if path.suffix not in ENDINGS:
        raise ConfigError(f"to={to}: valid: a file that ends in {', '.join(ENDINGS)}")
    return path
