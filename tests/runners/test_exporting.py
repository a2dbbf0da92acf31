"""Recorded runs in the files of peft, and peft's methods on the command line."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lab import ROOT, Lab, Outcome

from randlora.peft_format import import_from_peft
from randlora.peft_types import load_peft
from randlora.seeds import seed_for
from randlora.storage import load_adapter
from results.record import Record
from runners.plan import Run

Command = Callable[..., Outcome]
MLP = "backbone.targets=[mlp.c_fc.weight,mlp.c_proj.weight]"
METHODS = {
    "LORA": ["method=lora", "method.rank=2"],
    "RANDLORA": ["method=randlora_peft", "method.rank=30"],
    "FOURIERFT": ["method=peft", "method.peft_type=FOURIERFT", "method.options={n_frequency: 50}"],
}
LAYERS = 16


@pytest.mark.parametrize("peft_type", METHODS)
def test_peft_computes_what_the_run_has_trained(peft_type: str, lab: Lab, command: Command, tmp_path: Path) -> None:
    run = lab.run(*METHODS[peft_type], MLP)
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert record.parameters is not None
    done = command("export", f"run={lab.store.folder(run.id)}", f"to={tmp_path / 'out'}")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 1
    assert done.out.startswith(f"{peft_type} of run {run.id} (")
    assert f"{LAYERS} layers, {record.parameters.adapter:,} trained numbers" in done.out
    seed = seed_for(run.seed, "weights")
    base, again = (run.backbone.build(root=ROOT, device=torch.device("cpu"), seed=seed).eval() for _ in range(2))
    own, _ = load_adapter(lab.file(run, "adapter.safetensors"), base)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # bases stand under one layer
        theirs = load_peft().PeftModel.from_pretrained(again, str(tmp_path / "out"))
        features = [run.backbone.image_features(model, x) for model in (own.model.eval(), theirs.base_model.model)]
    assert float((features[0] - features[1]).abs().max()) < 1e-6
    if peft_type != "FOURIERFT":
        back = import_from_peft(tmp_path / "out", own.remove())
        with torch.no_grad():
            assert float((run.backbone.image_features(back.model, x) - features[0]).abs().max()) < 1e-6


def test_a_run_is_found_by_its_id_and_a_head_is_left_out(lab: Lab, command: Command, tmp_path: Path) -> None:
    run = lab.run("method=lora", "method.rank=1", "backbone.targets=[mlp.c_fc.weight]", "recipe=micro_linear_head")
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    done = command("export", f"run={run.id}", f"to={tmp_path / 'out'}", f"records={lab.results}")
    assert done.code == 0, done.err
    assert record.parameters is not None
    assert f"; its trained head of {record.parameters.head:,} numbers is not part of it" in done.out
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def refused(command: Command, *arguments: str) -> str:
    done = command("export", *arguments)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    return done.err


def test_what_cannot_be_exported_is_refused_in_one_line(
    finished: tuple[Lab, Run, Record], command: Command, tmp_path: Path
) -> None:
    lab, run, _ = finished
    folder, out = lab.store.folder(run.id), tmp_path / "out"
    fused = refused(command, f"run={folder}", f"to={out}")
    assert f"run {run.id}: peft cannot adapt site 'visual.transformer.resblocks.0.attn.in_proj_weight'" in fused
    assert not out.exists()
    copy = tmp_path / "runs" / run.id
    shutil.copytree(folder, copy)
    (copy / "adapter.safetensors").unlink()
    assert "holds no adapter.safetensors; remove its record.json and run it again with machine.keep_weights=true" in (
        refused(command, f"run={copy}", f"to={out}")
    )
    out.mkdir()
    (out / "adapter_config.json").write_text("{}")
    assert "it holds an adapter already (adapter_config.json)" in refused(command, f"run={folder}", f"to={out}")
    (tmp_path / "file").touch()
    assert "there is a file of this name" in refused(command, f"run={folder}", f"to={tmp_path / 'file'}")


def test_a_run_that_is_not_there_is_refused_in_one_line(command: Command, tmp_path: Path) -> None:
    to, records = f"to={tmp_path / 'out'}", f"records={tmp_path}"
    assert "'nope' is not a run id" in refused(command, "run=nope", to, records)
    assert f"run={tmp_path}: there is no record.json in this folder" in refused(command, f"run={tmp_path}", to)
    assert "give run=…" in refused(command, to)
    for id in ("0000000000000000", "1234567890123456", "12e4567890123456"):  # no numbers
        assert f"run={id}: {tmp_path} holds no record of this run" in refused(command, f"run={id}", to, records)


def test_a_run_that_trained_nothing_or_failed_is_refused(lab: Lab, command: Command, tmp_path: Path) -> None:
    idle = lab.run("method=zero_shot")
    lab.execute(idle)
    to = f"to={tmp_path / 'out'}"
    assert "zero_shot has trained nothing" in refused(command, f"run={lab.store.folder(idle.id)}", to)
    broken = lab.run("method=lora", "method.rank=2", "recipe.shots=1000")
    assert lab.execute(broken).status == "failed"
    assert "the run is failed: " in refused(command, f"run={lab.store.folder(broken.id)}", to)


MISTAKES = {
    "type": ("method.peft_type=LORRA", "peft_type = 'LORRA'; did you mean LORA? valid: ADAMSS, BEFT"),
    "prompts": ("method.peft_type=PREFIX_TUNING", "it is prompt learning: it puts trained vectors before the input"),
    "option": ("method.options={rank: 3}", "LORA has no option 'rank'"),
    "option of the suite": ("method.options={target_modules: [x]}", "options.target_modules is set by the suite"),
    "option as a field": ("method.options.r=3", "set it as a whole, such as 'method.options={r: …}'"),
    "size": ("method.size=0", "Peft.size = 0; valid: a whole number of 1 or more"),
    "sites": ("backbone.targets=[attn.in_proj_weight]", "peft cannot adapt site 'visual.transformer.resblocks.0.attn"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_with_peft_is_one_line(mistake: str, command: Command) -> None:
    argument, expected = MISTAKES[mistake]
    done = command("run", "method=peft", *([] if mistake == "sites" else [MLP]), argument)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert expected in done.err


def test_a_budget_sizes_a_method_of_peft(lab: Lab) -> None:
    run = lab.run("method=peft", MLP, "budget=match_lora", "budget.reference.rank=3")
    assert run.solution.asked == run.solution.reached
    assert getattr(run.solution.method, "size", None) == 3
