"""Saved adapters that cannot be written, read, or do not belong to the model."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from safetensors.torch import load_file, save
from tiny_models import Tiny, adapt, fitted, perturb, targets_of
from torch import nn

from randlora.adapter import Targets
from randlora.backbones.clip import OpenClip
from randlora.sites import find_sites
from randlora.storage import StorageError, load_adapter, method_from_config, save_adapter, write_atomically


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    adaptation = adapt(METHODS["randlora"])
    perturb(adaptation)
    save_adapter(tmp_path / "adapter.safetensors", adaptation)
    return tmp_path / "adapter.safetensors"


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change what a saved adapter says about itself."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["adapter"])
    change(description)
    path.write_bytes(save(load_file(path), {"adapter": json.dumps(description)}))
    return path


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_named(keep: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(StorageError, match=r"adapter.safetensors cannot be read as a saved adapter"):
        load_adapter(saved, Tiny())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none.safetensors cannot be read as a saved adapter"):
        load_adapter(tmp_path / "none.safetensors", Tiny())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"w": torch.zeros(2)}))
    with pytest.raises(StorageError, match="is not a saved adapter of this version: format None, need"):
        load_adapter(path, Tiny())


def test_another_format_is_refused(saved: Path) -> None:
    rewritten(saved, lambda description: description.update(format="randlora-adapter-99"))
    with pytest.raises(StorageError, match="format 'randlora-adapter-99', need 'randlora-adapter-1'"):
        load_adapter(saved, Tiny())


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tall = nn.Linear(8, 20)


class Wider(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Linear(12, 13)


@pytest.mark.parametrize("name", ["randlora", "lora", "full_ft"])
def test_another_backbone_names_the_first_weight_that_does_not_fit(name: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapt(METHODS[name]))
    kind = "parameter" if name == "full_ft" else "site"
    with pytest.raises(StorageError, match=rf"was saved for {kind} '.*' of shape .*; this model has no such weight"):
        load_adapter(path, Other())
    with pytest.raises(
        StorageError, match=rf"for {kind} 'square.(weight|bias)' of shape .*; this model has it as \[13"
    ):
        load_adapter(path, Wider())


def test_a_refused_adapter_leaves_the_model_alone(saved: Path) -> None:
    model = Wider()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StorageError):
        load_adapter(saved, model)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "randlora.methods_elsewhere.x.LoRA",
        "randlora.storage.save_adapter",
        "torch.nn.Linear",
        "LoRA",
        "",
        "None",
    ],
)
def test_a_foreign_class_is_refused(target: str, saved: Path) -> None:
    rewritten(saved, lambda description: description.update(method={"_target_": target, "command": "true"}))
    with pytest.raises(StorageError, match=r"is not one of randlora\.methods\."):
        load_adapter(saved, Tiny())


@pytest.mark.parametrize(
    "target", ["randlora.methods.lora.sqrt", "randlora.methods.lora.Nope", "randlora.methods.no.LoRA"]
)
def test_a_class_this_version_lacks_is_refused(target: str) -> None:
    with pytest.raises(StorageError, match="is no fine-tuning method of this version"):
        method_from_config({"_target_": target})


def test_fields_this_version_lacks_or_refuses_are_named() -> None:
    config = METHODS["lora"].to_config()
    with pytest.raises(StorageError, match=r"does not take the saved fields: .*dropout"):
        method_from_config({**config, "dropout": 0.1})
    with pytest.raises(StorageError, match=r"does not take the saved fields: LoRA.rank = 0"):
        method_from_config({**config, "rank": 0})
    with pytest.raises(StorageError, match="does not take the saved fields"):
        method_from_config({"_target_": "randlora.methods.lora.TwoFactorMethod", "contraction": "auto"})


@pytest.mark.parametrize("name", METHODS)
def test_a_method_comes_back_from_its_description(name: str) -> None:
    config = json.loads(json.dumps(METHODS[name].to_config()))
    assert method_from_config(config) == METHODS[name]


def test_a_file_with_too_few_numbers_is_refused(saved: Path) -> None:
    rewritten(saved, lambda description: description["method"].update(rank=2))
    with pytest.raises(StorageError, match=r"'lambdas' holds \d+ numbers, the model's sites need \d+"):
        load_adapter(saved, Tiny())


def test_a_merged_model_has_no_adapter_to_save(tmp_path: Path) -> None:
    adaptation = adapt(METHODS["lora"])
    adaptation.merge()
    with pytest.raises(StorageError, match="holds no adapters any more; save before merging"):
        save_adapter(tmp_path / "late.safetensors", adaptation)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_a_full_disk_leaves_the_old_file_intact(failing: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: object) -> None:
        raise full

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        opened = Path.open

        def open_full(path: Path, mode: str = "r", **options: Any) -> Any:
            file = opened(path, mode, **options)
            if "w" in mode:
                file.raw.close()
            return file

        monkeypatch.setattr(Path, "open", open_full)
    adaptation = adapt(METHODS["randlora"])
    perturb(adaptation, seed=77)
    with pytest.raises((OSError, ValueError)):
        save_adapter(saved, adaptation)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]
    load_adapter(saved, Tiny())


def test_a_real_full_device_is_reported(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    target = tmp_path / "file"
    write_atomically(target, b"old")
    part = tmp_path / f".file.{os.getpid()}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert not part.is_symlink()


def test_writing_makes_folders_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file"
    for blob in (b"one", b"", b"three" * 1000):
        write_atomically(target, blob)
        assert target.read_bytes() == blob
    assert [file.name for file in target.parent.iterdir()] == ["file"]


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 12)
        self.out = nn.Linear(12, 30, bias=False)
        self.out.weight = self.words.weight


def test_an_adapter_of_a_tied_weight_is_saved_and_loaded(tmp_path: Path) -> None:
    one, other = TiedHead(), TiedHead()
    other.load_state_dict(one.state_dict())
    targets = Targets(sites=find_sites(one, ["out.weight"]))
    adaptation = METHODS["lora"].resized(3).apply(one, targets, seed=1)
    perturb(adaptation)
    save_adapter(tmp_path / "tied.safetensors", adaptation)
    load_adapter(tmp_path / "tied.safetensors", other)
    assert torch.equal(one.out.weight, other.out.weight)
    assert not torch.equal(one.out.weight, one.words.weight)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_the_description_of_a_real_model_stays_small(
    name: str, micro: OpenClip, micro_model: nn.Module, tmp_path: Path
) -> None:
    method = fitted(ADAPTER_METHODS[name], 8)
    adaptation = method.apply(micro_model, micro.targets_of(micro_model), seed=1)
    size = save_adapter(tmp_path / "adapter.safetensors", adaptation)
    assert 4 * adaptation.n_trainable() < size < 4 * adaptation.n_trainable() + 4096


def test_float64_and_heads_keep_their_numbers(tmp_path: Path) -> None:
    adaptation = adapt(METHODS["randlora"], dtype=torch.float64)
    perturb(adaptation)
    head = {"linear.weight": torch.randn(3, 4), "bias": torch.randn(3).bfloat16()}
    save_adapter(tmp_path / "adapter.safetensors", adaptation, head=head)
    loaded, loaded_head = load_adapter(tmp_path / "adapter.safetensors", Tiny().double())
    assert loaded_head.keys() == head.keys()
    assert all(torch.equal(loaded_head[name], tensor) for name, tensor in head.items())
    trainable = loaded.trainable()
    assert all(torch.equal(trainable[name], tensor) for name, tensor in adaptation.trainable().items())
    assert dataclasses.asdict(loaded.method) == dataclasses.asdict(adaptation.method)
    assert loaded.sites == targets_of(Tiny()).sites
