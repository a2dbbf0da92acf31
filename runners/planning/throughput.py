"""Seconds from operations: by what this machine has measured, or by a rate that was given. Never by a guess."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.bench_record import Benchmark, SubjectResult, read, spread
from runners.compose import ConfigError
from runners.plan import QuestionRun

if TYPE_CHECKING:
    from runners.planning.cells import PlannedCell
    from runners.planning.forecast import Forecast

PRECISIONS = {"float32": "float32", "bfloat16_autocast": "bfloat16"}
Pair = tuple["PlannedCell", "Forecast"]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Operations per second.

    Attributes:
        flops_per_s: the rate.
        source: where it comes from, in a few words.
        own: it was measured on this very method.
    """

    flops_per_s: float
    source: str
    own: bool


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Rates of training steps and of evaluation on one machine.

    Attributes:
        title: where the rates come from, for people.
        steps: measured rates of steps, by the group of the forecast.
        methods: measured rates of steps, by the fields of the method.
        usual: rate of steps of methods that were not measured; None: there is none.
        evaluation: rate of evaluation; None: there is none.
        products_only: the rates do not count attention.
        answers: the rate of evaluation holds for answers to questions too. They are written token by token, for which
            no rate of training steps says anything.
    """

    title: str
    steps: Mapping[str, float] = field(default_factory=dict)
    methods: Sequence[tuple[Mapping[str, Any], float]] = ()
    usual: float | None = None
    evaluation: float | None = None
    products_only: bool = False
    answers: bool = False

    def train_s(self, cell: PlannedCell, forecast: Forecast) -> float | None:
        """Return the seconds of all training steps of a cell; None where something is not known."""
        if not cell.trained:
            return 0.0
        rate = self.rate(cell, forecast)
        flops = forecast.step_products if self.products_only else forecast.step_flops
        if rate is None or flops is None or cell.work.steps is None:
            return None
        return flops / rate.flops_per_s * cell.work.steps

    def eval_s(self, cell: PlannedCell, forecast: Forecast) -> float | None:
        """Return the seconds of the evaluation of a cell; None where something is not known."""
        unlike = isinstance(cell.run, QuestionRun) and not self.answers
        if unlike or self.evaluation is None or forecast.eval_flops is None:
            return None
        return forecast.eval_flops / self.evaluation

    def rate(self, cell: PlannedCell, forecast: Forecast) -> Rate | None:
        """Return the rate of a cell's steps: its own where it was measured, else the median over what was."""
        if forecast.group in self.steps:
            return Rate(flops_per_s=self.steps[forecast.group], source="own runs", own=True)
        config = cell.run.solution.method.to_config()
        if same := [measured for stated, measured in self.methods if stated == config]:
            return Rate(flops_per_s=same[0], source="benchmark of it", own=True)
        if kin := [measured for stated, measured in self.methods if stated["_target_"] == config["_target_"]]:
            return Rate(flops_per_s=statistics.median(kin), source="benchmark of its kind", own=False)
        if self.usual is None:
            return None
        return Rate(flops_per_s=self.usual, source=self._usual_source, own=False)

    @property
    def _usual_source(self) -> str:
        if self.steps:
            return "runs of other methods"
        return "benchmark of others" if self.methods else "as given"


def given(flops_per_s: float) -> Throughput:
    """Return a rate that the user states for everything."""
    return Throughput(
        title=f"{flops_per_s:.3g} operations per second, as given", usual=flops_per_s, evaluation=flops_per_s
    )


def from_benchmark(path: Path, *, device: str, precision: str) -> Throughput:
    """Return the rates of a benchmark; evaluation is float32 and has one only where the benchmark is.

    Raises:
        ConfigError: if it was measured on another kind of device or in another precision than is planned for.
        StoreError: if it cannot be read.
    """
    found = read(path)
    kind = found.environment.device.partition(":")[0]
    measured = PRECISIONS.get(found.precision)
    if (kind, measured) != (device, precision):
        as_measured = f"device={kind} precision={measured}" if measured else "a benchmark of another precision"
        raise ConfigError(
            f"throughput={path}: measured on {found.environment.device} in {found.precision}, but planned for {device} "
            f"in {precision}; use {as_measured}"
        )
    rates = [(_method_of(one), one.flops / spread(one.times_s).median) for one in _eager(found)]
    if not rates:
        raise ConfigError(f"throughput={path}: no subject of this benchmark was measured; measure it again")
    usual = statistics.median(rate for _, rate in rates)
    return Throughput(
        title=f"{found.title} ({found.environment.device}, {found.environment.threads} threads)",
        methods=[(method, rate) for method, rate in rates if method is not None],
        usual=usual,
        evaluation=usual if precision == "float32" else None,
        products_only=kind == "cpu",  # torch has no formula for attention there
    )


def from_records(pairs: Iterable[Pair], *, device: str, precision: str) -> Throughput | None:
    """Return the rates of the cells that are done on this kind of device, None where there are none."""
    steps: dict[str, list[float]] = {}
    judged: list[float] = []
    for cell, forecast in pairs:
        record = cell.record
        if record is None or record.timing is None or not _is_on(record.provenance.device, device):
            continue
        if record.timing.eval_s and forecast.eval_flops:
            judged.append(forecast.eval_flops / record.timing.eval_s)
        seconds = record.timing.step_median_s
        if record.provenance.precision == precision and seconds and forecast.step_flops:
            steps.setdefault(forecast.group, []).append(forecast.step_flops / seconds)
    if not steps:
        return None
    medians = {group: statistics.median(rates) for group, rates in steps.items()}
    return Throughput(
        title=f"{sum(map(len, steps.values()))} runs of this table on this machine",
        steps=medians,
        usual=statistics.median(medians.values()),
        evaluation=statistics.median(judged) if judged else None,
        answers=True,
    )


def _eager(benchmark: Benchmark) -> list[SubjectResult]:
    return [one for case in benchmark.cases for one in case.subjects if not one.compiled and one.times_s]


def _method_of(subject: SubjectResult) -> Mapping[str, Any] | None:
    """Return the fields of a subject's method, None where it does not run as a run does."""
    plain = (
        subject.config.get("execution", {}).get("adapted_weights") == "keep" and subject.config["micro_batches"] == 1
    )
    return subject.config["method"] if plain else None


def _is_on(where: str, kind: str) -> bool:
    """Return whether a record's device, such as ``cuda: NVIDIA H100`` or ``AMD EPYC``, is of a kind."""
    return where.partition(":")[0].strip().startswith(kind)
