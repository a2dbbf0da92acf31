"""Layers of peft under the contract of our own methods: every type it has for linear layers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from configs import ROOT
from peft_cases import CASES, TYPES, adapted, method_of, targets
from safetensors.torch import load_file
from tiny_models import Tiny, inputs, perturb, train

from randlora.inject import fingerprint
from randlora.peft_types import NEARLY_AT_BASE
from randlora.storage import load_adapter, save_adapter, saved_bytes

# what peft's start is where it is not the base
STARTS = {
    "C3A": "draws its circulants",
    "FOURIERFT": "draws its spectrum",
    "UNILORA": "draws its vector",
    "VBLORA": "draws its vectors",
}
# the base but for rounding: the identity is a product of matrices, or the weight is taken apart and put together
ROUNDED = 1e-5
# neither start nor frozen numbers are drawn
NOT_DRAWN = {"BEFT", "BOFT", "IA3", "MISS", "OFT", "OFT of one block", "OSF", "PSOFT", "ROAD", "SUPERTUNING"}


def base_like(model: Tiny) -> Tiny:
    """Return the unadapted model, frozen: torch picks its kernels by whether weights take gradients."""
    return Tiny().to(next(model.parameters()).dtype).eval().requires_grad_(False)


def outputs(model: torch.nn.Module) -> torch.Tensor:
    torch.manual_seed(0)  # some layers sample in training
    with torch.no_grad():
        return model(inputs().to(next(model.parameters()).dtype))


def test_every_type_is_tried() -> None:
    assert len(TYPES) >= 29
    assert {"LORA", "FOURIERFT", "OFT", "VERA", "RANDLORA", "SHIRA", "HRA", "C3A", "WAVEFT", "ROAD"} <= set(TYPES)


@pytest.mark.parametrize("case", CASES)
def test_starts_at_the_base_or_says_so(case: str) -> None:
    adaptation = adapted(case)
    expected, found = outputs(base_like(adaptation.model)), outputs(adaptation.model)
    gap = float((found - expected).abs().max())
    if adaptation.method.starts_at_base:
        assert torch.equal(found, expected)
    elif CASES[case][0] in NEARLY_AT_BASE:
        assert gap < ROUNDED
    else:
        assert case in STARTS
        assert gap > 1e-5
    assert not adaptation.method.starts_at_base or case not in STARTS


@pytest.mark.parametrize("case", CASES)
def test_the_count_is_what_peft_trains(case: str) -> None:
    adaptation = adapted(case)
    assert adaptation.method.count(targets()) == adaptation.n_trainable() > 0
    assert adaptation.method.tensor_names(targets()) == list(adaptation.trainable())
    in_model = {id(parameter) for parameter in adaptation.model.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in adaptation.tuner.parameters() if parameter.requires_grad} == in_model


@pytest.mark.parametrize("case", CASES)
def test_training_moves_what_is_trained_and_nothing_else(case: str) -> None:
    adaptation = adapted(case)
    adaptation.model.train()
    start = {name: parameter.detach().clone() for name, parameter in adaptation.trainable().items()}
    before = fingerprint(adaptation.frozen())
    torch.manual_seed(0)
    losses = train(adaptation, steps=4)
    assert all(loss == loss for loss in losses)
    assert fingerprint(adaptation.frozen()) == before
    for name, parameter in adaptation.trainable().items():
        assert not torch.equal(parameter, start[name]), name


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_trained_or_watched(case: str) -> None:
    adaptation = adapted(case)
    watched = {id(tensor) for _, tensor in adaptation.frozen()}
    trained = {id(parameter) for parameter in adaptation.trainable().values()}
    assert not watched & trained
    assert watched | trained >= {id(t) for t in [*adaptation.model.parameters(), *adaptation.model.buffers()]}
    assert {id(tensor) for _, tensor in adaptation.regrown()} <= watched
    names = [name for name, _ in adaptation.frozen()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_merging_changes_no_output_and_leaves_a_plain_model(case: str, training: bool) -> None:
    adaptation = adapted(case)
    perturb(adaptation, std=0.1)
    original = dict(adaptation.model.named_parameters())
    base, before = outputs(base_like(adaptation.model)), outputs(adaptation.model)
    kept = {name: parameter.detach().clone() for name, parameter in original.items()}
    model = adaptation.model.train(training)
    assert adaptation.merge() is model
    assert all(module.training == training for module in model.modules())
    after = outputs(model.eval())
    assert float((after - before).abs().max()) < 1e-5 * float(before.abs().max())
    assert float((before - base).abs().max()) > 1e-4
    plain = Tiny()
    assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in plain.named_modules()}
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not hasattr(model, "peft_config")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    # the old weights were not written to
    assert all(torch.equal(parameter, kept[name]) for name, parameter in original.items() if "base_layer" in name)


@pytest.mark.parametrize("case", CASES)
def test_removing_gives_the_model_back(case: str) -> None:
    model = Tiny().eval()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    adaptation = method_of(case).apply(model, targets(model), seed=5)
    train(adaptation, steps=2)
    assert adaptation.remove() is model
    assert dict(model.named_modules()) == modules
    assert {name: id(one) for name, one in model.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    assert all(torch.equal(parameters[name], before[name]) for name in before)
    assert not hasattr(model, "peft_config")
    assert adaptation.n_trainable() == 0


def grown(case: str, *, seed: int = 5, default: torch.dtype = torch.float32) -> dict[str, tuple[int, int]]:
    model = Tiny()
    torch.set_default_dtype(default)
    try:
        adaptation = method_of(case).apply(model, targets(model), seed=seed)
    finally:
        torch.set_default_dtype(torch.float32)
    return {**fingerprint(iter(adaptation.trainable().items())), **fingerprint(adaptation.regrown())}


@pytest.mark.parametrize("case", CASES)
def test_start_and_frozen_numbers_depend_on_the_seed_alone(case: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = grown(case)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        other = grown(case, default=torch.float64)
        assert torch.equal(torch.get_rng_state(), state)
    assert one == other
    assert (grown(case, seed=6) == one) == (case in NOT_DRAWN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    torch.save(Tiny().state_dict(), folder / "base.pt")
    expected = {}
    for case in CASES:
        adaptation = adapted(case, seed=2**40 + 17)
        perturb(adaptation, std=0.1)
        expected[case] = outputs(adaptation.model)
        size = save_adapter(folder / f"{case}.safetensors", adaptation)
        assert size == (folder / f"{case}.safetensors").stat().st_size
    torch.save(expected, folder / "outputs.pt")
    return folder


@pytest.fixture(scope="module")
def reloaded(folder: Path) -> dict[str, bool]:
    command = [sys.executable, str(Path(__file__).with_name("reload_peft.py")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_computes_bitwise_the_same(case: str, reloaded: dict[str, bool]) -> None:
    assert reloaded[case]


@pytest.mark.parametrize("case", CASES)
def test_the_file_holds_trained_numbers_only(case: str, folder: Path) -> None:
    file, method = folder / f"{case}.safetensors", method_of(case)
    tensors = load_file(file)
    assert {name.partition("/")[0] for name in tensors} == {"trained"}
    assert sum(tensor.numel() for tensor in tensors.values()) == method.count(targets())
    assert 0 <= saved_bytes(method, targets()) - file.stat().st_size < 1024 + 64 * len(tensors)


def test_saving_a_reloaded_adapter_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for case in CASES:
        adaptation, _ = load_adapter(folder / f"{case}.safetensors", Tiny())
        save_adapter(tmp_path / "again", adaptation)
        assert (tmp_path / "again").read_bytes() == (folder / f"{case}.safetensors").read_bytes(), case


def test_a_merged_model_can_be_adapted_again_and_copies_stay_apart() -> None:
    adaptation = adapted("LORA")
    perturb(adaptation)
    model = adaptation.merge()
    once = outputs(model)
    again = method_of("VERA").apply(copy.deepcopy(model), targets(model), seed=2)
    perturb(again)
    twice = outputs(again.model)
    assert float((outputs(again.merge()) - twice).abs().max()) < 1e-5
    assert torch.equal(outputs(model), once)
