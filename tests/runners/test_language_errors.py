"""What a language run says where its weights, its tokenizer or its targets are not there."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configs import ROOT, build
from lab import Outcome

from randlora.backbones.errors import WeightsError

Command = Callable[..., Outcome]
QUESTIONS = ("dataset=micro_commonsense", "recipe=micro_commonsense", "method=lora_llm", "machine.audit=false")
EMBEDDED = ROOT / "assets" / "weights" / "stories260k"


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Command:
    return lambda *given: command(
        "run", *QUESTIONS, *given, "machine.device=cpu", f"machine.results={tmp_path / 'runs'}"
    )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model that a test may change."""
    shutil.copytree(EMBEDDED, tmp_path / "model")
    return tmp_path / "model"


def reason_of(outcome: Outcome) -> str:
    assert outcome.code == 1
    record = json.loads(Path(outcome.out.split("record: ")[1].strip()).read_text(encoding="utf-8"))
    assert record["status"] == "failed"
    assert record["reason"] in outcome.out
    return str(record["reason"])


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["qwen2_0_5b", "phi3_mini", "llama3_8b"])
def test_weights_of_the_hub_that_are_not_here(name: str, run: Command) -> None:
    reason = reason_of(run(f"backbone={name}"))
    assert f"backbone {name}: the weights {build('backbone', name).hub_id} are not on this machine" in reason
    assert "With a network, run the same command again" in reason
    assert "hf auth login" in reason
    assert reason.endswith("backbone.checkpoint=/path/to/folder")


def test_a_target_that_the_model_does_not_have(run: Command, tmp_path: Path) -> None:
    for name, target, near in [
        ("llama3_8b", "q_projj.weight", "'q_proj.weight'"),
        ("phi3_mini", "self_attn.q_proj.weight", "'qkv_proj.weight'"),
    ]:
        outcome = run(f"backbone={name}", f"backbone.targets=[{target}]")
        assert outcome.code == 2
        assert f"target '{target}' matched none of the" in outcome.err
        assert f"weights of {name}; nearest: " in outcome.err
        assert near in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_a_tokenizer(run: Command, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    reason = reason_of(run("backbone=stories260k", f"backbone.checkpoint={folder}"))
    assert reason == (
        f"WeightsError: backbone stories260k: {folder} has no tokenizer that can be read; copy the tokenizer files of "
        "the model there (tokenizer.json, tokenizer_config.json)"
    )


def test_a_tokenizer_without_a_padding_token_pads_with_token_0(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    stated: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert stated.pop("pad_token")
    file.write_text(json.dumps(stated), encoding="utf-8")
    backbone = dataclasses.replace(build("backbone", "stories260k"), checkpoint=str(folder))
    tokenizer = backbone.tokenizer(root=ROOT)
    assert tokenizer.pad_token_id == 0
    assert backbone.tokenizer(root=ROOT).padding_side == "left"
    batch = tokenizer(["a", "Once upon a time there was a cat"], padding=True)
    padding = [i for i, mask in enumerate(batch["attention_mask"][0]) if mask == 0]
    assert padding == list(range(len(padding)))
    assert len(padding) > 3
    assert all(batch["input_ids"][0][i] == 0 for i in padding)


def test_random_weights_have_no_tokenizer(run: Command) -> None:
    with pytest.raises(WeightsError, match=r"has random weights and no tokenizer; .* backbone.checkpoint=PATH"):
        build("backbone", "stories260k").with_random_weights().tokenizer(root=ROOT)
    assert "has random weights and no tokenizer" in reason_of(run("backbone=stories260k", "backbone.checkpoint=null"))


def test_quantised_weights_without_their_package(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else real(name, *a)
    )
    reason = reason_of(run("backbone=stories260k", "backbone.quantize=4bit"))
    assert "needs the package bitsandbytes, which is not installed: pip install 'randlora[quantized]'" in reason


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (["method=full_ft"], "FullFineTuning trains the weights themselves"),
        (["method=peft"], "layers of Peft are not tested on that"),
        (["method.contraction=weight"], "set method.contraction=auto"),
        (["backbone.checkpoint=null"], "a random start has none"),
    ],
)
def test_what_quantised_weights_do_not_go_with_is_said_first(
    method: list[str], words: str, run: Command, tmp_path: Path
) -> None:
    outcome = run("backbone=stories260k", "backbone.quantize=8bit", *method)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.strip().count("\n") == 0
    assert not (tmp_path / "runs").exists()
