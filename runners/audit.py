"""randlora audit: whether a method keeps its contract on a backbone: your model, your sites, under a minute.

Checks on the live model, with random inputs: the method starts at the base; training moves what is trainable and no
more; counts are as in closed form; a merge and a saved adapter give the same outputs; bases grow from the seed; both
forms agree; gradients and ranks are what they should be. The exit code is 1 if a check fails. Needs no data set.
Every run does the same once per process and method, and records the verdict (machine.audit=false leaves it out).

weights=random audits the same architecture without its weights.

Examples:
  randlora audit backbone=micro_clip method=randlora
  randlora audit backbone=clip_vit_b32 method=lora method.rank=32 weights=random
  randlora audit -m backbone=micro_clip method=lora,vera,randlora     one after the other
  randlora audit method=vera budget=match_lora format=json
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.compose import ConfigError, instantiate
from runners.formats import FORMATS, check_format, rows_text
from runners.machine import ROOT

if TYPE_CHECKING:
    from torch import nn

    from randlora.audit.findings import Finding
    from randlora.backbones.base import Backbone
    from runners.machine import Machine

CONFIG = "audit"
WEIGHTS = ("real", "random")
VERDICTS = {True: "ok", False: "FAILED", None: "n/a"}
QUIET_S = 3.0  # before the first line of progress, and between lines
BESIDE = 40  # columns of the table that are not the detail's


def main(config: DictConfig) -> int:
    """Audit, print the findings, and return 0, or 1 if a check failed."""
    check_format(config.format, FORMATS)
    if config.weights not in WEIGHTS:
        raise ConfigError(f"weights={config.weights}: valid: {', '.join(WEIGHTS)}")
    objects = instantiate(config)
    backbone, machine, method = objects["backbone"], objects["machine"], _method(objects)
    machine.prepare()
    if config.weights == "random":
        backbone = backbone.with_random_weights()
    model = _model(backbone, machine)
    from runners.auditing import inspect

    began = time.perf_counter()
    try:
        findings = inspect(model, backbone=backbone, method=method, machine=machine, notify=_progress(began))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    seconds = time.perf_counter() - began
    print(_table(findings, config.format))
    if config.format == "text":
        name = f"{backbone.name} with random weights" if config.weights == "random" else backbone.name
        where = f"{type(method).__name__} on {name}, {machine.torch_device()}, {machine.training_precision()}"
        print(f"\n{where}: {_summary(findings)}; {seconds:.1f} s")
    return 1 if any(finding.passed is False for finding in findings) else 0


def _method(objects: dict[str, Any]) -> Any:
    """Return the method at its budget, checked against the backbone's shapes before any weight is loaded."""
    from runners.plan import check_sites, skeleton_targets

    try:
        objects["machine"].torch_device()
        targets = skeleton_targets(objects["backbone"])
        method = objects["budget"].solve(objects["method"], targets).method
        check_sites(method, targets)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return method


def _model(backbone: Backbone, machine: Machine) -> nn.Module:
    from randlora.backbones.errors import WeightsError

    try:
        return backbone.build(root=ROOT, device=machine.torch_device())
    except WeightsError as error:
        raise WeightsError(f"{error}. Without weights, weights=random audits the same architecture") from error


def _progress(began: float) -> Callable[[str], None]:
    last = began

    def show(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= QUIET_S:
            last = now
            print(f"audit: {stage}, after {now - began:.0f} s", file=sys.stderr)

    return show


def _table(findings: Sequence[Finding], form: str) -> str:
    if form != "text":
        return rows_text([{"check": f.name, "passed": f.passed, "detail": f.detail} for f in findings], form)
    width = max(BESIDE, shutil.get_terminal_size((140, 24)).columns - BESIDE)
    rows = [
        {"check": f.name, "verdict": VERDICTS[f.passed], "detail": "\n".join(textwrap.wrap(f.detail, width))}
        for f in findings
    ]
    return rows_text(rows, form)


def _summary(findings: Sequence[Finding]) -> str:
    counts = {verdict: sum(f.passed is verdict for f in findings) for verdict in (True, False, None)}
    failed = f"{counts[False]} FAILED, " if counts[False] else ""
    return f"{failed}{counts[True]} checks hold, {counts[None]} not applicable"
