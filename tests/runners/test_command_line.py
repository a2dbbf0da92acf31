"""The command line: help, one readable line per mistake, Hydra's flags, output for scripts."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lab import Lab, Outcome, write_table

import runners.cli
from results.record import Record
from runners.cli import VERBS
from runners.compose import CONF

Command = Callable[..., Outcome]
LORA = ("method=lora", "method.rank=1", "recipe.max_steps=1")
METHODS = ", ".join(sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
MISTAKES = {
    "verb": ("rnu", "there is no verb 'rnu'; valid: run, sweep"),
    "key": ("run shots=4", "unknown key 'shots'; valid: backbone, budget, dataset"),
    "group": ("run mehtod=lora", "unknown key 'mehtod'; valid: backbone"),
    "choice": ("run method=lorra", f"method=lorra: there is no such method; valid: {METHODS}"),
    "field": ("run method.rnak=4", "unknown key 'method.rnak'; did you mean method.rank? method has: rank"),
    "nested field": ("run recipe.task.negative=batch", "did you mean recipe.task.negatives?"),
    "field of a group that is none": ("run optimizer.lr=1", "unknown key 'optimizer.lr'"),
    "value out of range": ("run method=lora method.rank=0", "LoRA.rank = 0; valid: a whole number of 1 or more"),
    "value of another type": ("run recipe.batch_size=many", "Recipe.batch_size = 'many'; valid"),
    "value that is no choice": ("run recipe.schedule=cos", "valid: 'cosine', 'linear', 'constant'"),
    "nested value": ("run recipe.task.negatives=none", "ImageText.negatives = 'none'; valid: 'classes', 'batch'"),
    "rank above the sites": ("run method=lora method.rank=193", "valid: 1 to 192, the shorter side"),
    "target that matches nothing": ("run backbone.targets=[q_proj]", "target 'q_proj' matched none of the"),
    "scope that matches nothing": ("run backbone.scope=[q_proj]", "scope 'q_proj' matched none of the"),
    "architecture": ("run backbone.model=nope", "no architecture 'nope'"),
    "language model and image task": (
        "run backbone=qwen2_0_5b",
        "is a language model; the task ImageText needs an image",
    ),
    "images without texts": ("run backbone=dinov2_vit_b14", "has no text tower, which the task ImageText needs"),
    "field of an architecture": (
        "budget methods=lora backbone=qwen2_0_5b +backbone.architecture.layers=2",
        "'qwen2' has no field 'layers'",
    ),
    "method and task": ("run method=linear_probe", "needs a recipe that trains a head"),
    "budget out of reach": ("run budget=parameters budget.parameters=10", "a budget of 10 parameters is out of reach"),
    "budget without a number": ("run budget=parameters", "budget needs budget.parameters=…"),
    "data set without its path": ("run dataset=image_folder", "dataset.sources.folder.path=…"),
    "seed": ("run seed=one", "seed=one: valid: a whole number"),
    "several values": ("run seed=1,2", "start them with -m (multirun)"),
    "architecture of no kind": ("run backbone.model=null", "OpenClip.model = None; valid: a string"),
    "name of no kind": ("run backbone.name=[a]", "OpenClip.name = ['a']; valid: a string"),
    "weights of no kind": ("run backbone.checkpoint=[a]", "OpenClip.checkpoint = ['a']; valid: a string, or null"),
    "tag of no kind": ("run backbone.pretrained=3", "OpenClip.pretrained = 3; valid: a string, or null"),
    "targets of no kind": ("run backbone.targets=3", "targets = 3; valid: a list of patterns"),
    "group left out": ("run ~dataset", "dataset: cannot be left out"),
    "malformed": ("run method", "cannot read the override 'method'"),
    "flag": ("run --mulitrun", "randlora run has no --mulitrun; valid: --help, --multirun, and field=value"),
    "multirun choice": ("run -m method=lora,lorra", "method=lorra: there is no such method"),
    "multirun of nothing": ("run -m method=glob(x*)", "method=glob(x*) matches nothing"),
    "no table": ("sweep", "give table=…; tables: small"),
    "table": ("table table=smal", "no table 'smal' in"),
    "table of a sweep": ("sweep table=smal", "it has small"),
    "table of status": ("status table=smal", "it has small"),
    "table to publish": ("publish table=smal", "it has small"),
    "key of a sweep": ("sweep table=small recipe.max_steps=1", "unknown key 'recipe.max_steps'"),
    "format": ("table table=small format=html", "format=html: valid: markdown, latex, csv, json"),
    "format of status": ("status format=html", "format=html: valid: text, json, csv"),
    "format of budget": ("budget format=html", "format=html: valid: text, json, csv"),
    "reference": ("budget match=lorra", "match=lorra: there is no such method; did you mean lora"),
    "reference without parameters": ("budget match=zero_shot methods=lora", "trains nothing in the backbone"),
    "reference rank": ("budget match=lora rank=0 methods=lora", "LoRA.rank = 0; valid"),
    "reference rank above the sites": ("budget match=lora rank=193 methods=lora", "valid: 1 to 192"),
    "reference without a size": (
        "budget match=full_ft rank=3 methods=lora",
        "match=full_ft rank=3: FullFineTuning has no size",
    ),
    "no budget": (
        "budget match=null",
        "no target; valid: parameters=1e6, percent=0.7, bytes=4MB, step_s=0.2, memory=500MB, or match=METHOD rank=32",
    ),
    "two budgets": ("budget percent=1 bytes=4MB", "percent= and bytes=: give one target; valid: parameters=1e6"),
    "a budget beside a match": ("budget match=lora parameters=5", "parameters= and match=: give one target"),
    "rank without a match": ("budget percent=1 rank=4", "rank=4 is the rank of the method to match; leave it out"),
    "percent out of range": ("budget percent=120", "percent = 120; valid: a number above 0 and below 100"),
    "size of no unit": ("budget bytes=4XB", "bytes = '4XB'; valid: a number of bytes, or one with a unit"),
    "method of a budget": ("budget methods=[lora,lorra]", "methods=lorra: there is no such method; did you mean lora"),
    "idle method of a budget": ("budget methods=[zero_shot]", "methods=zero_shot: it trains nothing in the backbone"),
    "no method of a budget": ("budget methods=[]", "methods=[]: valid: a list of dora"),
    "site of a budget": (
        "budget backbone.targets=[q_proj.weight] methods=lora",
        "target 'q_proj.weight' matched none of the",
    ),
    "number of parameters": ("budget parameters=0", "parameters=0: valid: a whole number of 1 or more"),
    "number that is none": ("budget parameters=many", "parameters=many: valid"),
    "seed of pre-training": ("pretrain seed=one", "seed=one: valid: a whole number"),
    "pre-training on nothing": ("pretrain ~train.cifar100 ~train.caltech101", "at least one data set"),
}


@pytest.mark.parametrize("flag", [(), ("-h",), ("--help",)])
def test_the_overview_names_every_verb(command: Command, flag: tuple[str, ...]) -> None:
    outcome = command(*flag)
    assert outcome.code == 0
    for verb, what in VERBS.items():
        assert f"{verb:<8}" in outcome.out
        assert what in outcome.out


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_a_verb_does_with_examples(command: Command, verb: str, flag: str) -> None:
    outcome = command(verb, flag)
    assert outcome.code == 0
    assert outcome.out.startswith(f"randlora {verb}: ")
    assert "Examples:" in outcome.out
    assert f"\n  randlora {verb}" in outcome.out
    if verb in ("run", "pretrain", "budget", "sweep"):
        assert "Config groups" in outcome.out
    if verb == "run":
        assert f"\n  method     {METHODS}\n" in outcome.out


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_before_anything_is_written(
    command: Command, mistake: str, experiments: Path, tmp_path: Path, quiet_hydra: None
) -> None:
    line, words = MISTAKES[mistake]
    write_table(experiments, "small")
    results = tmp_path / "results"
    verb, *rest = shlex.split(line)
    own = [f"machine.results={results}"] if verb in ("run", "sweep") and len(rest) > 0 else []
    if mistake == "key of a sweep":
        own = []
    outcome = command(verb, *rest, *own)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert not results.exists()
    assert not (tmp_path / "tables").exists()


def test_a_device_that_is_not_there_is_an_error(command: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = command("run", *lab.overrides("machine.device=cuda"))
    assert outcome.code == 2
    assert "torch sees no CUDA device" in outcome.err
    assert not lab.results.exists()


def test_cfg_prints_the_configuration_and_stops(command: Command, lab: Lab, quiet_hydra: None) -> None:
    outcome = command("run", "--cfg", "job", *lab.overrides("method=vera", "budget=match_lora", "seed=7"))
    assert outcome.code == 0
    config = yaml.safe_load(outcome.out)
    assert config["seed"] == 7
    assert config["method"]["_target_"].endswith("VeRA")
    assert config["budget"]["reference"]["_target_"].endswith("LoRA")
    assert not lab.results.exists()


def test_cfg_takes_deletions_on_either_side(command: Command, quiet_hydra: None) -> None:
    for arguments in (["~train.caltech101", "--cfg", "job"], ["--cfg", "job", "~train.caltech101"]):
        outcome = command("pretrain", *arguments)
        assert outcome.code == 0
        assert list(yaml.safe_load(outcome.out)["train"]) == ["cifar100"]


def test_a_multirun_runs_every_job_and_fails_if_one_did(
    command: Command, lab: Lab, experiments: Path, quiet_hydra: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["run", "-m", *lab.overrides(*LORA), "recipe.shots=1000,1", "seed=1,2"]
    monkeypatch.setattr("sys.argv", ["randlora", *arguments])
    outcome = command(*arguments)
    assert outcome.code == 1
    records = lab.store.scan().records.values()
    assert sorted((record.config["recipe"]["shots"], record.key.seed, record.status) for record in records) == [
        (1, 1, "ok"),
        (1, 2, "ok"),
        (1000, 1, "failed"),
        (1000, 2, "failed"),
    ]
    assert {record.provenance.command for record in records} == {shlex.join(["randlora", *arguments])}
    assert command(*arguments[:-2], "recipe.shots=1", "seed=1,2").code == 0


def test_an_interruption_ends_the_whole_multirun(
    command: Command,
    lab: Lab,
    experiments: Path,
    quiet_hydra: None,
    interrupt_after: Callable[[int], None],
) -> None:
    interrupt_after(1)
    outcome = command("run", "-m", *lab.overrides("method=lora", "method.rank=1"), "seed=1,2,3")
    assert outcome.code == 130
    assert lab.store.scan().records == {}
    assert len(list(lab.results.glob("*/checkpoint.pt"))) == 1


def test_tables_and_states_are_there_for_scripts(command: Command, swept: Path, experiments: Path) -> None:
    write_table(experiments, "small")
    write_table(experiments, "other", seeds=[3])
    records = f"records={swept / 'results'}"

    states = json.loads(command("status", records, "format=json").out)
    assert [(state["table"], state["cells"], state["ok"], state["missing"]) for state in states] == [
        ("other", 2, 0, 2),
        ("small", 4, 4, 0),
    ]
    (state,) = read_csv(command("status", "table=small", records, "format=csv").out)
    assert (state["table"], state["ok"], state["failed"], state["stale"]) == ("small", "4", "0", "0")
    assert "small" in command("status", records).out

    document = json.loads(command("table", "table=small", records, "format=json").out)
    assert document["name"] == "small"
    assert len(document["rows"]) == 2
    assert {line["method"] for line in read_csv(command("table", "table=small", records, "format=csv").out)} == {
        "LoRA",
        "VeRA",
    }
    assert command("table", "table=small", records).out.startswith("### Small runs of small")


def test_the_console_script_is_this_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from randlora.__main__ import main

    monkeypatch.setattr(runners.cli, "main", lambda: 7)
    assert main() == 7


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_record_of_a_sweep_is_readable(swept: Path) -> None:
    paths = sorted((swept / "results").glob("*/record.json"))
    assert len(paths) == 4
    for path in paths:
        assert Record.from_json(path.read_text()).status == "ok"
