"""What a benchmark of sweeps measured: a typed document, written and read as JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from results import bench_files
from results.bench_record import Environment, Spread, spread

SCHEMA = 1
ALONE = "a process for each run"


@dataclass(frozen=True, kw_only=True)
class WayResult:
    """One way of carrying out runs.

    Attributes:
        label: its name.
        at_once: how many runs are under way at a time.
        runs: how many it carried out in a round.
        seconds: by round, with the start of every process.
        used_s: of each run of all rounds: training and evaluation.
        inside_s: of the same runs: the rest of the time that the record states.
        outside_s: of those runs for which it was told, all that passed since the same worker's record before, or since
            the start of the run's own process, but for training and evaluation.
    """

    label: str
    at_once: int
    runs: int
    seconds: tuple[float, ...]
    used_s: tuple[float, ...]
    inside_s: tuple[float, ...]
    outside_s: tuple[float, ...]

    @property
    def per_hour(self) -> Spread:
        """Runs per hour."""
        return spread([3600 * self.runs / seconds for seconds in self.seconds])

    @property
    def steady_per_hour(self) -> float | None:
        """Runs per hour where the start of workers no longer counts, from medians; None where it was not told."""
        if not self.outside_s:
            return None
        return 3600 * self.at_once / (statistics.median(self.used_s) + statistics.median(self.outside_s))


@dataclass(frozen=True, kw_only=True)
class Length:
    """Every way with runs of so many training steps."""

    steps: int
    ways: tuple[WayResult, ...]

    def relative(self, way: WayResult) -> Spread:
        """Return the runs per hour relative to those of one process for each run, taken within rounds."""
        pairs = zip(self._reference.seconds, way.seconds, strict=True)
        return spread([(there / self._reference.runs) / (here / way.runs) for there, here in pairs])

    def steady_relative(self, way: WayResult) -> float | None:
        """Return the same of :attr:`WayResult.steady_per_hour`."""
        here, there = way.steady_per_hour, self._reference.steady_per_hour
        return None if here is None or there is None else here / there

    @property
    def _reference(self) -> WayResult:
        return next(one for one in self.ways if one.label == ALONE)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One command over many records.

    Attributes:
        command: as it is typed.
        first_s: seconds where nothing was read before.
        again_s: seconds from then on.
    """

    command: str
    first_s: tuple[float, ...]
    again_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class OverheadBenchmark:
    """One benchmark.

    Attributes:
        name: of its files.
        fixed: overrides of all runs.
        methods: of the runs.
        datasets: of the runs.
        seeds: how many.
        seeds_alone: how many of them where each run has a process of its own.
        environment: where it was measured.
        load: what the computer had to do otherwise when it began: processes at work, the mean of the last minute.
        lengths: runs by their number of steps.
        records: in the folder that was read.
        record_bytes: of all of them.
        readings: what it took.
    """

    name: str
    fixed: tuple[str, ...]
    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: int
    seeds_alone: int
    environment: Environment
    load: float
    lengths: tuple[Length, ...]
    records: int
    record_bytes: int
    readings: tuple[Reading, ...]


def write(benchmark: OverheadBenchmark, path: Path) -> Path:
    """Write the document with every number measured, wholly or not at all."""
    return bench_files.write(benchmark, path, schema=SCHEMA)


def read(path: Path) -> OverheadBenchmark:
    """Read a document; StoreError if the file is not there, or is no benchmark of this schema."""
    return bench_files.read(OverheadBenchmark, path, schema=SCHEMA, verb="sweep_bench")
