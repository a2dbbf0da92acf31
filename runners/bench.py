"""randlora bench: time and memory of a training step, subject beside subject in one process.

One step is forward, loss, backward, AdamW step and clearing of gradients. Every round takes one step of every subject,
the order rotated; ratios are taken within rounds. Weights are random; nothing is downloaded. docs/BENCHMARKS.md says
what each column means.

Examples:
  randlora bench                                              the embedded CLIP, a minute or two
  randlora bench workload=vit_b32_mlp seconds=600
  randlora bench workload=crossover "workload.layers=[[4096,4096]]" only=[weight,activation,auto]
  randlora bench only=[lora,randlora] rounds=5 compile=true
  randlora bench '+subjects.members.mine=["method=lora","method.rank=8"]' only=mine
  randlora bench workload=vit_b32_vision workload.precision=bfloat16_autocast workload.batch=128 device=cuda
  randlora bench subjects=sizes fit=true seconds=300          # and fit what `randlora budget costs=` predicts with
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.benchmark.publishing import check_settings, refresh, write_folders
from runners.compose import ConfigError, choices, instantiate, plain
from runners.machine import ROOT

if TYPE_CHECKING:
    import torch

    from results.bench_record import Benchmark
    from runners.benchmark.cases import Case, Workload
    from runners.benchmark.subjects import Field

CONFIG = "bench"
PUBLISHED = ROOT / "results" / "published" / "bench"
PAGE = ROOT / "docs" / "BENCHMARKS.md"


def main(config: DictConfig) -> int:
    """Measure, print the tables and write the files; return 0, or 1 where a case has no subject that ran."""
    # torch's profiler announces itself on stderr at every start; read when torch is loaded
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    _check(config)
    from results.bench_tables import left_out, markdown
    from runners.benchmark.subjects import read_field

    workload: Workload = instantiate(config)["workload"]
    only = _listed(config.only)
    compiled = config.compile if isinstance(config.compile, bool) else _listed(config.compile) or ()
    field = read_field(config.subjects, only=only, compiled=compiled)
    device = _device(config)
    if config.fit and len(workload.cases()) != 1:
        raise ConfigError(f"fit=true fits one batch, and this workload has {len(workload.cases())} cases; name one")
    benchmark = _measure(config, workload, field, device)
    print(markdown(benchmark))
    folders = write_folders(benchmark, write_all, config, published=PUBLISHED)
    if config.fit:
        _fit(config, benchmark, workload, field, device, folders)
    if config.publish:
        refresh(PAGE, published=PUBLISHED)
    if not all(case.subjects for case in benchmark.cases):
        print(f"error: nothing could be measured: {'; '.join(left_out(benchmark))}", file=sys.stderr)
        return 1
    return 0


def write_all(benchmark: Benchmark, folder: Path) -> tuple[Path, ...]:
    """Write `name.json` with every number, `name.md`, `name.csv` and the pictures; raises StoreError."""
    from results import bench_plot, bench_record, bench_tables
    from results.files import write_text

    return (
        bench_record.write(benchmark, folder / f"{benchmark.name}.json"),
        write_text(folder / f"{benchmark.name}.md", bench_tables.markdown(benchmark)),
        write_text(folder / f"{benchmark.name}.csv", bench_tables.csv(benchmark)),
        *bench_plot.draw(benchmark, folder),
    )


def _measure(config: DictConfig, workload: Workload, field: Field, device: torch.device) -> Benchmark:
    from results.bench_record import Benchmark
    from runners.benchmark.environment import environment
    from runners.benchmark.measure import Protocol, measure
    from runners.benchmark.progress import stage_progress

    started_at = datetime.now(UTC)
    cases: Sequence[Case] = workload.cases()
    protocol = Protocol(
        device=device,
        seed=config.seed,
        warmup=config.warmup,
        rounds=config.rounds,
        seconds=config.seconds / len(cases),
    )
    try:
        with stage_progress(len(cases)) as on_stage:
            measured = tuple(measure(case, field, protocol, on_stage=on_stage) for case in cases)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Benchmark(
        name=config.name or choices(config)["workload"],
        title=workload.title,
        precision=workload.precision,
        workload=plain(config.workload),
        relative_to=field.relative_to,
        memory_relative_to=field.memory_relative_to,
        environment=environment(device, started_at),
        cases=measured,
    )


def _fit(
    config: DictConfig,
    benchmark: Benchmark,
    workload: Workload,
    field: Field,
    device: torch.device,
    folders: Sequence[Path],
) -> None:
    """Fit the costs, print their check, and write `costs.json`, `costs.md` and `costs.png` beside the benchmark."""
    from results.bench_fit import draw_fit, fit_table
    from results.files import write_text
    from runners.benchmark.costing import fit_costs

    try:
        found = fit_costs(benchmark, workload.cases()[0], field, device=device, seed=config.seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    table = fit_table(found.checked, where=found.costs.words)
    print(f"\n{table}")
    for folder in folders:
        print(write_text(folder / "costs.json", found.costs.to_json()))
        print(write_text(folder / "costs.md", table))
        print(draw_fit(found.checked, folder / "costs.png", title=benchmark.title))


def _check(config: DictConfig) -> None:
    check_settings(config, whole=("warmup", "rounds"), flags=("publish", "fit"))
    if config.threads is not None and (not isinstance(config.threads, int) or config.threads < 1):
        raise ConfigError(f"threads={config.threads}: valid: a whole number of 1 or more, or null")
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device={config.device}: valid: auto, cpu, cuda")


def _listed(value: Any) -> list[str] | None:
    found = plain(value)
    if found is None:
        return None
    return [found] if isinstance(found, str) else [str(one) for one in found]


def _device(config: DictConfig) -> torch.device:
    import torch

    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError("device=cuda, but torch sees no CUDA device; use device=cpu or auto")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")
