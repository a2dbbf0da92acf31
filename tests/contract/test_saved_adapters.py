"""Contract 5: a saved adapter holds what was trained and nothing else, and a fresh process computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import METHODS, ROOT
from safetensors.torch import load_file
from tiny_models import Tiny, adapt, inputs, perturb

from randlora.storage import load_adapter, save_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method's adapter after some training, its outputs, and the base weights."""
    folder = tmp_path_factory.mktemp("saved")
    head = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    torch.save(Tiny().state_dict(), folder / "base.pt")
    for name, method in METHODS.items():
        adaptation = adapt(method, seed=2**40 + 17)
        perturb(adaptation)
        with torch.no_grad():
            torch.save(adaptation.model(inputs()) @ head.T, folder / f"{name}.pt")
        size = save_adapter(folder / f"{name}.safetensors", adaptation, head={"linear.weight": head})
        assert size == (folder / f"{name}.safetensors").stat().st_size
    return folder


@pytest.fixture(scope="module")
def reloaded(folder: Path) -> dict[str, dict[str, Any]]:
    script = Path(__file__).with_name("reload_adapters.py")
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_process_computes_bitwise_the_same(name: str, reloaded: dict[str, dict[str, Any]]) -> None:
    adaptation = adapt(METHODS[name])
    assert reloaded[name] == {
        "outputs": True,
        "trainable": adaptation.n_trainable(),
        "method": repr(adaptation.method),
    }


@pytest.mark.parametrize("name", METHODS)
def test_the_file_holds_trained_numbers_only(name: str, folder: Path) -> None:
    file = folder / f"{name}.safetensors"
    tensors = load_file(file)
    adaptation = adapt(METHODS[name])
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert {key.partition("/")[0] for key in tensors} <= {"adapter", "head", "scope", "trained"}
    assert numbers == adaptation.n_trainable() + tensors["head/linear.weight"].numel()
    assert file.stat().st_size <= 4 * numbers + 16 * 1024


@pytest.mark.parametrize("name", METHODS)
def test_saving_again_after_reloading_gives_the_same_bytes(name: str, folder: Path, tmp_path: Path) -> None:
    adaptation, head = load_adapter(folder / f"{name}.safetensors", Tiny())
    save_adapter(tmp_path / "again.safetensors", adaptation, head=head)
    assert (tmp_path / "again.safetensors").read_bytes() == (folder / f"{name}.safetensors").read_bytes()
