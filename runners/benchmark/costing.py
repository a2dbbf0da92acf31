"""From a benchmark of many sizes to a model of step time and peak memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from randlora.cost_fit import fit, unfitted
from randlora.costs import Costs
from randlora.features import KEPT, RESIDENT, TIME, UPDATING, Features, features_of
from randlora.work import Work
from results.bench_fit import Checked
from results.bench_record import Benchmark, SubjectResult, ratio, spread
from runners.benchmark.cases import Case
from runners.benchmark.counting import count_rows
from runners.benchmark.subjects import Field, Subject


def fit_costs(benchmark: Benchmark, case: Case, field: Field, *, device: torch.device, seed: int) -> FitResult:
    """Return the model that follows from the subjects of a benchmark, and its check.

    Raises:
        ValueError: if the frozen model or subjects enough were not measured.
    """
    (result,) = benchmark.cases
    work = work_of(case, device=device, seed=seed)
    subjects = {one.label: one for one in field.subjects}
    frozen = next((one for one in result.subjects if _is_frozen(subjects[one.label])), None)
    if frozen is None:
        raise ValueError("fit=true needs the frozen model among the subjects, as in subjects=sizes")
    known: dict[str, Features] = {}
    for one in result.subjects:
        features = _features(subjects[one.label], work)
        if features is not None and one is not frozen:
            known[one.label] = features
    measured = {one.label: one for one in result.subjects if one.label in known}
    times = {label: _time(one, frozen) for label, one in measured.items()}
    seconds = fit(known, times, unfitted(usual=_time(frozen, frozen)), fitted=TIME)
    memory = frozen.memory
    resident = unfitted(constant=memory.resident_bytes, common=RESIDENT, usual=memory.step_peak_bytes, other=UPDATING)
    bytes = fit(known, _bytes(measured), resident, fitted=KEPT)
    costs = Costs(
        title=benchmark.title,
        case=case.name,
        backbone=_backbone(benchmark.workload),
        workload=benchmark.workload,
        environment=dataclasses.asdict(benchmark.environment),
        work=work,
        subjects=tuple(known),
        seconds=seconds.model,
        bytes=bytes.model,
    )
    checked = tuple(
        Checked(
            label=one.label,
            seconds=_time(one, frozen),
            predicted_seconds=seconds.predicted.get(one.label),
            bytes=one.memory.peak_bytes,
            predicted_bytes=bytes.predicted.get(one.label),
        )
        for one in result.subjects
        if one is not frozen
    )
    return FitResult(costs=costs, checked=checked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitResult:
    """Fitted costs, and every measured subject beside its prediction by the others."""

    costs: Costs
    checked: tuple[Checked, ...]


def work_of(case: Case, *, device: torch.device, seed: int) -> Work:
    """Return what a step of a case works on; runs its forward pass once."""
    model = case.build(device=device, seed=seed)
    model.requires_grad_(False)
    targets = case.targets(model)
    inputs = case.inputs(model, device=device, seed=seed)
    return Work.of(targets, count_rows(case, model, targets.sites, inputs), case.precision)


def _is_frozen(subject: Subject) -> bool:
    return not subject.method.trains_backbone and not subject.compile


def _features(subject: Subject, work: Work) -> Features | None:
    if subject.compile or subject.micro_batches > 1:
        return None
    return features_of(subject.method, work, subject.execution)


def _time(one: SubjectResult, frozen: SubjectResult) -> float:
    """Return the step time relative to the frozen model, taken within rounds, times the frozen model's own.

    What slows the machine down for some rounds moves the median of a subject, and not that of its ratios.
    """
    return ratio(one, frozen).median * spread(frozen.times_s).median


def _bytes(measured: Mapping[str, SubjectResult]) -> dict[str, float]:
    return {label: float(one.memory.peak_bytes) for label, one in measured.items()}


def _backbone(workload: Mapping[str, Any]) -> str | None:
    backbone = workload.get("backbone")
    return str(backbone["name"]) if isinstance(backbone, Mapping) else None
