"""A workload from its cases to its results."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from randlora.inject import fingerprint
from results.bench_record import CaseResult, StepMemory, SubjectResult
from runners.benchmark.cases import Case
from runners.benchmark.counting import count_flops, count_rows, floor_units, unit
from runners.benchmark.memory import measure_memory
from runners.benchmark.step import TrainingStep
from runners.benchmark.subjects import Field, Subject
from runners.benchmark.timing import interleave

if TYPE_CHECKING:
    from torch import Tensor

OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a case is measured.

    Attributes:
        device: where.
        seed: of weights, inputs and adapters.
        warmup: steps of each subject before anything is timed.
        rounds: the most timed rounds.
        seconds: limit of the timed rounds of a case.
    """

    device: torch.device
    seed: int
    warmup: int
    rounds: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    step: TrainingStep
    first_step_s: float
    graph_breaks: int | None
    memory: StepMemory
    flops: int


def measure(case: Case, field: Field, protocol: Protocol, *, on_stage: OnStage) -> CaseResult:
    """Measure every subject on a case.

    A subject that cannot run there (its method does not fit a site, a package is absent, memory runs out) is left out
    with the reason; the others are measured.

    Args:
        case: model, input and loss.
        field: the subjects.
        protocol: how.
        on_stage: called with what is going on, and how many of how many are done.

    Raises:
        RuntimeError: if a step changed a weight that it should leave alone.
        ValueError: if the case cannot be built.
    """
    with _quick_collections():
        return _measure(case, field, protocol, on_stage=on_stage)


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Let the garbage collector pass over what is loaded already: it runs before every round."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _measure(case: Case, field: Field, protocol: Protocol, *, on_stage: OnStage) -> CaseResult:
    base = case.build(device=protocol.device, seed=protocol.seed)
    base.requires_grad_(False)
    sites = case.targets(base).sites
    inputs = case.inputs(base, device=protocol.device, seed=protocol.seed)
    rows = count_rows(case, base, sites, inputs)
    before = fingerprint(base.named_parameters())
    prepared: dict[str, _Prepared] = {}
    left_out: dict[str, str] = {}
    for done, subject in enumerate(field.subjects):
        on_stage(f"{case.name}: {subject.label}", done, len(field.subjects))
        try:
            prepared[subject.label] = _prepare(case, base, subject, protocol, inputs)
        except Exception as error:
            left_out[subject.label] = _reason(error)
        gc.collect()
    times = interleave(
        {label: one.step for label, one in prepared.items()},
        rounds=protocol.rounds if prepared else 0,
        seconds=protocol.seconds,
        on_round=lambda done: on_stage(f"{case.name}: rounds", done, protocol.rounds),
    )
    changed = [name for name, sums in fingerprint(base.named_parameters()).items() if sums != before[name]]
    if changed:
        raise RuntimeError(f"{len(changed)} frozen weights changed during the benchmark, among them '{changed[0]}'")
    return CaseResult(
        name=case.name,
        layer=case.layer,
        tokens=case.tokens,
        sites=len(sites),
        unit_flops=unit(sites, rows),
        subjects=tuple(_result(one, times[label], rows) for label, one in prepared.items()),
        left_out=left_out,
    )


def _prepare(
    case: Case, base: nn.Module, subject: Subject, protocol: Protocol, inputs: Mapping[str, Tensor]
) -> _Prepared:
    step = TrainingStep(case, base, subject, inputs=inputs, seed=protocol.seed)
    before = _compilations() if subject.compile else None
    began = time.perf_counter()
    step()
    first_step_s = time.perf_counter() - began
    for _ in range(protocol.warmup - 1):
        step()
    graph_breaks = None
    if before is not None:
        graphs, graph_breaks = (now - then for now, then in zip(_compilations(), before, strict=True))
        if graphs == 0:
            raise RuntimeError("torch.compile compiled nothing of the step")
    return _Prepared(
        step=step,
        first_step_s=first_step_s,
        graph_breaks=graph_breaks,
        memory=measure_memory(step),
        flops=count_flops(step),
    )


def _result(prepared: _Prepared, times: list[float], rows: Mapping[str, int]) -> SubjectResult:
    step = prepared.step
    return SubjectResult(
        label=step.subject.label,
        overrides=step.subject.overrides,
        config=step.subject.config,
        compiled=step.subject.compile,
        graph_breaks=prepared.graph_breaks,
        trained=sum(one.numel() for one in step.trained),
        first_step_s=prepared.first_step_s,
        times_s=tuple(times),
        memory=prepared.memory,
        flops=prepared.flops,
        floor_units=floor_units(step, rows),
    )


def _compilations() -> tuple[int, int]:
    """Return the graphs that torch.compile has made in this process, and the breaks between them."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
