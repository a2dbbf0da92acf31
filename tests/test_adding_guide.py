"""The method of docs/ADDING.md works as written: one Python file and one YAML file, nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import hydra
import pytest
import torch
from configs import ROOT
from omegaconf import OmegaConf
from tiny_models import SITES, Tiny, adapt, inputs, perturb, targets_of, train

import randlora.methods
from randlora.adapter import AdapterMethod
from randlora.fitting import fit
from randlora.inject import fingerprint
from randlora.storage import load_adapter, save_adapter


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterMethod]:
    folder = tmp_path_factory.mktemp("methods")
    text = (ROOT / "docs" / "ADDING.md").read_text(encoding="utf-8")
    blocks = dict(
        re.findall(r"^`([\w/]+\.py|conf/method/[\w.]+)`.*?\n```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    )
    (source,) = (body for name, body in blocks.items() if name.endswith(".py"))
    (yaml,) = (body for name, body in blocks.items() if name.endswith(".yaml"))
    (folder / "lora_fa.py").write_text(source, encoding="utf-8")
    randlora.methods.__path__.append(str(folder))
    try:
        import_module("randlora.methods.lora_fa")
        yield hydra.utils.instantiate(OmegaConf.create(yaml), _convert_="all")
    finally:
        randlora.methods.__path__.remove(str(folder))
        sys.modules.pop("randlora.methods.lora_fa", None)


def test_it_starts_at_the_base_and_trains_only_its_own_numbers(method: AdapterMethod) -> None:
    base = Tiny().eval()(inputs())
    adaptation = adapt(method)
    assert torch.equal(adaptation.model(inputs()), base)
    assert adaptation.n_trainable() == adaptation.method.count(targets_of(Tiny()))
    frozen = fingerprint(adaptation.frozen())
    start = {name: parameter.detach().clone() for name, parameter in adaptation.trainable().items()}
    losses = train(adaptation, steps=5)
    assert losses[-1] < losses[0]
    assert fingerprint(adaptation.frozen()) == frozen
    assert all(not torch.equal(parameter, start[name]) for name, parameter in adaptation.trainable().items())


def test_it_merges_saves_and_loads(method: AdapterMethod, tmp_path: Path) -> None:
    adaptation = adapt(method, dtype=torch.float32)
    perturb(adaptation)
    expected = adaptation.model(inputs())
    path = tmp_path / "adapter.safetensors"
    size = save_adapter(path, adaptation)
    assert size <= 4 * adaptation.n_trainable() + 16 * 1024
    again, _ = load_adapter(path, Tiny().eval())
    assert torch.equal(again.model(inputs()), expected)
    torch.testing.assert_close(adaptation.merge()(inputs()), expected, rtol=1e-5, atol=1e-6)


def test_it_has_a_budget(method: AdapterMethod) -> None:
    targets = targets_of(Tiny(), SITES)
    solution = fit(method, targets, asked=method.resized(2).count(targets))
    assert solution.reached == method.resized(2).count(targets)


def test_the_guide_lists_the_folders_that_exist() -> None:
    text = (ROOT / "docs" / "ADDING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:tests|randlora|conf|experiments|results)/[\w/.-]+)`", text):
        if "/x." in path or "lora_fa" in path or "..." in path:
            continue
        assert (ROOT / path).exists(), path
