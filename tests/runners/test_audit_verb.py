"""randlora audit, and the verdict that runs record."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lab import Lab, Outcome

import runners.auditing
from randlora.methods.lora import LoRA, LoRAAdapter
from results.record import PhaseMemory
from runners.auditing import Auditor
from runners.execute import Bench, execute
from runners.memory import MemoryMeter

Command = Callable[..., Outcome]
LORA = ("method=lora", "method.rank=2")
QUICK = (*LORA, "weights=random", "machine.threads=1")
SITE = "visual.transformer.resblocks.0.attn.in_proj_weight"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no detail is broken into lines."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def starts_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoRA whose update is not zero at the start."""
    adapt = LoRA.adapt

    def elsewhere(*arguments: Any) -> LoRAAdapter:
        adapter = adapt(*arguments)
        with torch.no_grad():
            adapter.b += 0.1
        return adapter

    monkeypatch.setattr(LoRA, "adapt", elsewhere)


def test_the_table_says_what_was_checked_and_seen(command: Command) -> None:
    outcome = command("audit", *QUICK)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["check", "verdict", "detail"]
    verdicts = {line.split()[0]: line.split()[1] for line in lines[2:] if line and line[0].isalpha()}
    assert verdicts.pop("bases_kept_once") == "n/a"
    assert verdicts.pop("LoRA") == "on"  # the last line
    assert len(verdicts) == 14
    assert set(verdicts.values()) == {"ok"}
    assert "LoRA on micro_clip with random weights, cpu, float32: 14 checks hold, 1 not applicable" in lines[-1]
    assert "768 x 192: 2, claimed 2" in outcome.out


def test_scripts_get_the_same(command: Command) -> None:
    rows = json.loads(command("audit", *QUICK, "format=json").out)
    lines = list(csv.DictReader(io.StringIO(command("audit", *QUICK, "format=csv").out)))
    assert [(row["check"], row["detail"]) for row in rows] == [(line["check"], line["detail"]) for line in lines]
    assert {row["passed"] for row in rows} == {True, None}
    assert {line["passed"] for line in lines} == {"True", ""}


def test_the_method_is_audited_at_its_budget(command: Command) -> None:
    outcome = command("audit", "method=lora", "budget=match_lora", "budget.reference.rank=3", *QUICK[2:])
    assert outcome.code == 0
    assert "52,992 parameters on 24 sites" in outcome.out


@pytest.mark.usefixtures("starts_off")
def test_a_broken_method_is_named_with_its_site(command: Command) -> None:
    outcome = command("audit", *QUICK)
    assert outcome.code == 1
    (line,) = [line for line in outcome.out.splitlines() if "FAILED" in line and line.startswith("starts_at_base")]
    assert "allowed 0" in line
    assert SITE in outcome.out
    assert "1 FAILED, 13 checks hold" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["weights=none"], "weights=none: valid: real, random"),
        (["format=html"], "format=html: valid: text, json, csv"),
        (["method=lorra"], "there is no such method"),
        (["method=lora", "method.rank=193"], "valid: 1 to 192"),
        (["backbone.targets=[q_proj]"], "target 'q_proj' matched none"),
        (["dataset=mnist"], "unknown key 'dataset'; valid: backbone, budget, format, machine, method, weights"),
        (["machine.audit=maybe"], "Machine.audit = 'maybe'; valid: true or false"),
        (["backbone.checkpoint=nowhere.safetensors"], "weights=random audits the same architecture"),
    ],
)
def test_a_mistake_is_one_line(command: Command, arguments: list[str], words: str) -> None:
    outcome = command("audit", *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert words in outcome.err


def test_a_long_audit_says_where_it_is(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("audit", *QUICK, "format=json").err == ""
    monkeypatch.setattr("runners.audit.QUIET_S", 0.0)
    lines = command("audit", *QUICK).err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "audit: the start",
        "audit: training",
        "audit: the adapters",
        "audit: loading and merging",
    ]


@pytest.mark.parametrize("method", ["randlora", "full_ft"])
def test_a_run_computes_the_same_bits_with_and_without(lab: Lab, method: str) -> None:
    audited = lab.run(f"method={method}", "machine.audit=true")
    record = lab.execute(audited)
    plain = lab.beside("plain")
    without = plain.run(f"method={method}")
    unaudited = plain.execute(without)
    assert audited.id == without.id
    assert lab.trained(audited) == plain.trained(without)
    verdict = {name: value for name, value in record.checks.items() if name.startswith("audit/")}
    assert verdict.keys() >= {"audit/starts_at_base", "audit/trainable_move", "audit/model_restored"}
    assert ("audit/gradients_exact" in verdict) == (method == "randlora")  # what does not apply is left out
    assert all(verdict.values())
    assert record.checks == {**unaudited.checks, **verdict}
    assert unaudited.checks == {"frozen_unchanged": True, "count_as_predicted": True}
    assert lab.store.read(audited.id) == record


@pytest.mark.usefixtures("starts_off")
def test_a_run_whose_method_breaks_the_contract_fails(lab: Lab, command: Command) -> None:
    overrides = lab.overrides(*LORA, "machine.audit=true")
    outcome = command("run", *overrides)
    assert outcome.code == 1
    record = lab.store.read(lab.run(*LORA).id)
    assert record is not None
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith("AuditError: LoRA breaks its contract on micro_clip: starts_at_base: ")
    assert SITE in record.reason
    assert record.reason in outcome.out
    assert record.checks["audit/starts_at_base"] is False
    assert record.checks["audit/count_as_predicted"] is True
    assert record.metrics == {}


def test_a_method_is_audited_once_per_process(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    audit = runners.auditing.audit

    def counted(model: Any, method: Any, *rest: Any, **settings: Any) -> Any:
        seen.append(f"{type(method).__name__} {method.rank}")
        return audit(model, method, *rest, **settings)

    monkeypatch.setattr(runners.auditing, "audit", counted)
    bench = Bench(store=lab.store, stop=lambda: False, on_step=lambda *_: None)
    short = ("recipe.max_steps=1", "machine.audit=true")
    records = [
        execute(lab.run("method=lora", f"method.rank={rank}", f"seed={seed}", *short), bench)
        for rank, seed in [(1, 1), (1, 2), (2, 1)]
    ]
    assert seen == ["LoRA 1", "LoRA 2"]
    assert records[0].checks == records[1].checks
    assert "audit/starts_at_base" in records[0].checks


def test_a_verdict_is_remembered_for_what_it_was_found_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(runners.auditing, "inspect", lambda model, **what: seen.append(what) or ())
    auditor = Auditor()
    changes = [
        [],
        ["seed=3", "recipe.max_steps=2", "machine.evaluation_batch_size=7"],
        ["method.rank=3"],
        ["machine.precision=bfloat16"],
        ["machine.execution.adapted_weights=rebuild"],
        ["backbone.targets=[mlp.c_fc.weight]"],
        ["machine.audit=false"],
    ]
    for change in changes:
        run = lab.run(*LORA, "machine.audit=true", *change)
        model = torch.nn.Module()
        auditor.verdict(model, backbone=run.backbone, method=run.solution.method, machine=run.machine)
    assert len(seen) == len(changes) - 2


def test_a_phase_in_two_parts_has_the_larger_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([30, 20, 5])
    monkeypatch.setattr("runners.memory._reset_process_peak", lambda: True)
    monkeypatch.setattr("runners.memory._process_peak", lambda: next(peaks))
    meter = MemoryMeter(torch.device("cpu"))
    for name in ("load", "load", "train"):
        with meter.phase(name):
            pass
    memory = meter.memory()
    assert memory.load == PhaseMemory(process_peak_bytes=30)
    assert memory.train == PhaseMemory(process_peak_bytes=5)
