"""Benchmarks of a single small layer, in this process."""

from __future__ import annotations

import json

import torch
from torch import nn

from results.bench_record import CaseResult
from runners.benchmark.cases import Case
from runners.benchmark.layers import LayerCase
from runners.benchmark.measure import Protocol, measure
from runners.benchmark.step import TrainingStep
from runners.benchmark.subjects import Field, read_field
from runners.compose import compose

ROWS, COLUMNS, TOKENS = 64, 48, 32
FLOAT = 4
CPU = torch.device("cpu")
LAYER = LayerCase(name="layer", precision="float32", layer=(ROWS, COLUMNS), tokens=TOKENS)


class TanhCase(LayerCase):
    """A layer whose output goes through tanh, which keeps what it returns for the backward pass."""

    def build(self, *, device: torch.device, seed: int) -> nn.Module:
        return nn.Sequential(*super().build(device=device, seed=seed), nn.Tanh())


def member(label: str, *overrides: str) -> str:
    return f"+subjects.members.{label}={json.dumps(list(overrides))}"


def subjects(*labels: str, **extra: list[str]) -> Field:
    """Return the subjects of `conf/subjects/forms.yaml` with these labels, and others by their overrides."""
    config = compose("bench", ["subjects=forms", *(member(label, *own) for label, own in extra.items())])
    config.subjects.relative_to = []
    return read_field(config.subjects, only=[*labels, *extra], compiled=False)


def step_of(field: Field, case: Case = LAYER) -> TrainingStep:
    base = case.build(device=CPU, seed=1)
    return TrainingStep(case, base, field.subjects[0], inputs=case.inputs(base, device=CPU, seed=1), seed=1)


def measured(field: Field, case: Case = LAYER, *, rounds: int = 1) -> CaseResult:
    protocol = Protocol(device=CPU, seed=1, warmup=1, rounds=rounds, seconds=60.0)
    return measure(case, field, protocol, on_stage=lambda *_: None)
