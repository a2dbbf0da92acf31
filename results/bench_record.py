"""What one benchmark measured: a typed document, written and read as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import bench_files

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of a training step, by part.

    Attributes:
        frozen_bytes: weights that are not trained.
        trained_bytes: trained parameters.
        buffer_bytes: buffers, shared bases among them, each memory counted once.
        optimizer_bytes: state of the optimizer.
        input_bytes: the batch.
        gradient_bytes: gradients of the trained parameters.
        kept_bytes: allocated between the (first) forward and backward pass above the start of the step.
        step_peak_bytes: the most allocated at any moment of the step above its start.
    """

    frozen_bytes: int
    trained_bytes: int
    buffer_bytes: int
    optimizer_bytes: int
    input_bytes: int
    gradient_bytes: int
    kept_bytes: int
    step_peak_bytes: int

    @property
    def resident_bytes(self) -> int:
        """What is there between two steps."""
        return self.frozen_bytes + self.trained_bytes + self.buffer_bytes + self.optimizer_bytes + self.input_bytes

    @property
    def peak_bytes(self) -> int:
        """The most at any moment."""
        return self.resident_bytes + self.step_peak_bytes

    @property
    def sum_bytes(self) -> int:
        """What is there between steps, what the forward pass keeps, and the gradients: no temporary memory."""
        return self.resident_bytes + self.kept_bytes + self.gradient_bytes


@dataclass(frozen=True, kw_only=True)
class SubjectResult:
    """One subject on one case.

    Attributes:
        label: its name.
        overrides: what it is, as overrides of `conf/bench_subject.yaml`.
        config: method, execution and micro-batches, composed.
        compiled: ran through torch.compile.
        graph_breaks: of a compiled subject; None otherwise.
        trained: number of trained parameters.
        first_step_s: seconds of the first step, which allocates (and compiles).
        times_s: seconds of the timed step of each round.
        memory: of one step.
        flops: operations of the matrix products and convolutions of one step.
        floor_units: least operations of the adapted weights in units of tokens x long side x short side, for the form
            the subject runs in; None where there is no formula.
    """

    label: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    compiled: bool
    graph_breaks: int | None
    trained: int
    first_step_s: float
    times_s: tuple[float, ...]
    memory: StepMemory
    flops: int
    floor_units: float | None


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case.

    Attributes:
        name: its name.
        layer: output and input features where it is a single layer.
        tokens: rows of the input where the case is one of several numbers of tokens.
        sites: number of adapted weights.
        unit_flops: tokens x long side x short side, summed over the sites.
        subjects: in the order of the tables.
        left_out: label and reason of each subject that could not run.
    """

    name: str
    layer: tuple[int, ...] | None
    tokens: int | None
    sites: int
    unit_flops: int
    subjects: tuple[SubjectResult, ...]
    left_out: Mapping[str, str]

    def find(self, label: str | None) -> SubjectResult | None:
        """Return the subject of a label, or None."""
        return next((one for one in self.subjects if one.label == label), None)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where it was measured."""

    device: str
    cores: int
    threads: int
    versions: Mapping[str, str]
    commit: str | None
    dirty: bool | None
    command: str
    started_at: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: of its files.
        title: of its tables and plots.
        precision: see `runners/benchmark/cases.py`.
        workload: the composed `conf/workload`.
        relative_to: labels of the references of step times.
        memory_relative_to: label of the reference of memory.
        environment: where it was measured.
        cases: what was measured.
    """

    name: str
    title: str
    precision: str
    workload: Mapping[str, Any]
    relative_to: tuple[str, ...]
    memory_relative_to: str | None
    environment: Environment
    cases: tuple[CaseResult, ...]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and first and last decile."""

    median: float
    p10: float
    p90: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and deciles (by linear interpolation) of one value or more."""
    if len(values) == 1:
        return Spread(median=values[0], p10=values[0], p90=values[0])
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return Spread(median=statistics.median(values), p10=deciles[0], p90=deciles[-1])


def ratio(subject: SubjectResult, reference: SubjectResult) -> Spread:
    """Return the step time of a subject relative to a reference: taken within each round, then median and deciles."""
    return spread([one / other for one, other in zip(subject.times_s, reference.times_s, strict=True)])


def to_json(benchmark: Benchmark) -> str:
    """Return the document with every number measured."""
    return bench_files.to_json(benchmark, schema=SCHEMA)


def write(benchmark: Benchmark, path: Path) -> Path:
    """Write the document, wholly or not at all."""
    return bench_files.write(benchmark, path, schema=SCHEMA)


def read(path: Path) -> Benchmark:
    """Read a document; StoreError if the file is not there, or is no benchmark of this schema."""
    return bench_files.read(Benchmark, path, schema=SCHEMA, verb="bench")
