"""randlora sweep_bench: what a sweep costs beside training and evaluation.

Carries the same short runs out in several ways, all of them real commands in fresh processes whose start counts: a
process for each run, Hydra's multirun, and what a sweep does, with one worker and with several. Rounds take the ways in
turns; ratios are taken within rounds. Then it fills a folder with thousands of records and times the verbs that read
them. The records are thrown away.

Examples:
  randlora sweep_bench                                                       about an hour on two cores
  randlora sweep_bench steps=[5] seeds=2 rounds=1 records=2000 readings=1    some minutes
  randlora sweep_bench datasets=[pets3,mini_mnist] methods=[lora,full_ft] "fixed=['recipe.shots=4']"
  randlora sweep_bench machine.device=cuda workers=2 name=overhead_gpu
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.benchmark.publishing import RESULTS, check_settings, conclude
from runners.compose import ConfigError, compose_parts, instantiate, plain
from runners.machine import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from results.overhead_record import Length, OverheadBenchmark, Reading
    from runners.overhead.cells import Cells
    from runners.overhead.ways import Scratch

    OnStage = Callable[[str, int, int], None]

CONFIG = "sweep_bench"
PUBLISHED = ROOT / "results" / "published" / "overhead"
PAGE = ROOT / "docs" / "SWEEPS.md"
FORWARDED = "machine."
OWN = "machine.results="  # every way has a folder of its own


def main(config: DictConfig) -> int:
    """Measure, print the tables and write the files; return 0."""
    _check(config)
    from results import overhead_record, overhead_tables

    benchmark = _measure(config)
    conclude(benchmark, config, record=overhead_record, tables=overhead_tables, published=PUBLISHED, page=PAGE)
    return 0


def _measure(config: DictConfig) -> OverheadBenchmark:
    from results.overhead_record import OverheadBenchmark
    from runners.benchmark.environment import environment
    from runners.benchmark.progress import stage_progress
    from runners.overhead.many_records import write_many
    from runners.overhead.ways import Scratch, verb

    started_at, load = datetime.now(UTC), os.getloadavg()[0]
    machine = instantiate(config)["machine"]
    cells, alone = _cells(config, config.seeds), _cells(config, config.seeds_alone)
    extra = _extra(config)
    _check_runs(cells, config.steps, extra)
    with _folder(config) as folder, stage_progress(len(config.steps) + 2) as on_stage:
        many = folder / "many"
        on_stage(f"writing {config.records} records", 0, 1)
        try:
            size = write_many(ROOT / Path(str(config.records_of)).expanduser(), many, count=config.records)
        except ValueError as error:
            raise ConfigError(f"records_of={config.records_of}: {error}") from error
        scratch = Scratch(root=folder)
        on_stage("a run that does not count", 0, 1)
        verb("run", *cells.jobs(*_steps(config.steps[0]), *extra)[0], f"machine.results={scratch.fresh()}")
        return OverheadBenchmark(
            name=str(config.name),
            fixed=cells.fixed,
            methods=cells.methods,
            datasets=cells.datasets,
            seeds=config.seeds,
            seeds_alone=config.seeds_alone,
            environment=environment(machine.torch_device(), started_at),
            load=load,
            lengths=tuple(
                _length(steps, config, cells, alone, extra=extra, scratch=scratch, on_stage=on_stage)
                for steps in config.steps
            ),
            records=config.records,
            record_bytes=size,
            readings=_readings(config, many, on_stage=on_stage),
        )


def _length(
    steps: int,
    config: DictConfig,
    cells: Cells,
    alone: Cells,
    *,
    extra: list[str],
    scratch: Scratch,
    on_stage: OnStage,
) -> Length:
    from results.overhead_record import Length
    from runners.benchmark.timing import interleave
    from runners.launchers import cores
    from runners.overhead.ways import ways

    found = ways(cells, alone, workers=config.workers or cores(), extra=[*_steps(steps), *extra], scratch=scratch)
    stage = f"{len(cells)} runs of {steps} steps in {len(found)} ways"
    on_stage(stage, 0, config.rounds)
    times = interleave(
        {way.label: way for way in found},
        rounds=config.rounds,
        seconds=config.seconds,
        on_round=lambda done: on_stage(stage, done, config.rounds),
    )
    return Length(steps=steps, ways=tuple(way.result(times[way.label]) for way in found))


def _readings(config: DictConfig, many: Path, *, on_stage: OnStage) -> tuple[Reading, ...]:
    from runners.overhead.reading import readings

    total = 2 * config.readings
    return readings(
        many,
        table=str(config.table),
        to=many.with_name("tables"),
        times=config.readings,
        on_reading=lambda command, done: on_stage(command, done, total),
    )


def _cells(config: DictConfig, seeds: int) -> Cells:
    from runners.overhead.cells import Cells

    texts: dict[str, Any] = {name: tuple(map(str, config[name])) for name in ("fixed", "methods", "datasets")}
    return Cells(**texts, seeds=tuple(range(config.seed, config.seed + seeds)))


def _extra(config: DictConfig) -> list[str]:
    """Return the overrides outside the identity of runs that were typed."""
    typed = [str(override) for override in config.hydra.overrides.task]
    own = [one for one in typed if one.startswith(OWN)]
    if own:
        raise ConfigError(f"{own[0]}: the records of a benchmark are thrown away; to=… is the folder of its own files")
    return [one for one in typed if one.startswith(FORWARDED)]


def _steps(steps: int) -> list[str]:
    return [f"recipe.max_steps={steps}"]


def _check_runs(cells: Cells, steps: list[int], extra: list[str]) -> None:
    """Raise ConfigError where a run does not compose, or its parts do not go together."""
    from runners.plan import Planner

    planner = Planner()
    for composed in compose_parts("config", [job for one in steps for job in cells.jobs(*_steps(one), *extra)]):
        planner.check(composed)


@contextmanager
def _folder(config: DictConfig) -> Iterator[Path]:
    """Yield an empty folder on the disk that the files go to, for as long as the block lasts."""
    from results.files import StoreError

    to = Path(str(config.to)).expanduser() if config.to is not None else RESULTS
    try:
        to.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".sweeps-", dir=to))
    except OSError as error:
        raise StoreError(f"cannot write in {to}: {error.strerror}; choose another folder with to=…") from error
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(config: DictConfig) -> None:
    check_settings(config, whole=("seeds", "seeds_alone", "rounds", "records", "readings"))
    if config.seeds_alone > config.seeds:
        raise ConfigError(f"seeds_alone={config.seeds_alone}: valid: at most seeds={config.seeds}")
    if config.workers is not None and not _is_count(config.workers):
        raise ConfigError(f"workers={config.workers}: valid: a whole number of 1 or more, null for one per core")
    for name in ("methods", "datasets"):
        chosen = plain(config[name])
        if not isinstance(chosen, list) or not chosen or len(set(map(str, chosen))) < len(chosen):
            raise ConfigError(f"{name}={chosen}: valid: distinct choices of conf/{name[:-1]}, such as {name}=[…,…]")
    if not isinstance(plain(config.fixed), list):
        raise ConfigError(f"fixed={config.fixed}: valid: overrides, each in quotes, such as fixed=['recipe.shots=4']")
    steps = plain(config.steps)
    if not isinstance(steps, list) or not steps or len(set(map(str, steps))) < len(steps):
        raise ConfigError(f"steps={steps}: valid: distinct whole numbers from 1, such as steps=[5,20]")
    if not all(map(_is_count, steps)):
        raise ConfigError(f"steps={steps}: valid: distinct whole numbers from 1, such as steps=[5,20]")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
