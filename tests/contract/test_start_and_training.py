"""Contracts 1 and 2: where a method starts, and what training changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from tiny_models import Tiny, adapt, changes, inputs, train

from randlora.inject import Adaptation, fingerprint
from randlora.methods.frozen import Frozen

AT_BASE = [name for name, method in METHODS.items() if method.starts_at_base]
ELSEWHERE = [name for name, method in METHODS.items() if not method.starts_at_base]


def base_of(adaptation: Adaptation) -> Tiny:
    """Return the unadapted model with the same plain weights frozen: torch picks its kernels by whether they are."""
    model = Tiny().eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in adaptation.scope)
    return model


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", AT_BASE)
def test_starts_bitwise_equal_to_the_base(name: str, training: bool) -> None:
    adaptation = adapt(METHODS[name])
    for tokens in (1, 5, 400):
        x = inputs(tokens=tokens)
        with torch.no_grad():
            expected = base_of(adaptation).train(training)(x)
            assert torch.equal(adaptation.model.train(training)(x), expected)


@pytest.mark.parametrize("name", AT_BASE)
def test_starts_bitwise_equal_to_the_base_under_autocast(name: str) -> None:
    adaptation = adapt(METHODS[name])
    base = base_of(adaptation)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for tokens in (1, 400):
            assert torch.equal(adaptation.model(inputs(tokens=tokens)), base(inputs(tokens=tokens)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", AT_BASE)
def test_starts_bitwise_equal_to_the_base_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    adaptation = adapt(METHODS[name], dtype=dtype)
    base = base_of(adaptation).to(dtype)
    with torch.no_grad():
        assert torch.equal(adaptation.model(inputs(dtype=dtype)), base(inputs(dtype=dtype)))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_start_elsewhere_is_small_and_explained(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name])
    x = inputs()
    with torch.no_grad():
        expected = base_of(adaptation)(x)
        difference = (adaptation.model(x) - expected).norm() / expected.norm()
    assert all(change.abs().max() > 0 for change in changes(adaptation).values())
    assert 0 < difference < 3
    assert "not at zero" in type(adaptation.method).__doc__


def test_nola_can_start_at_zero_and_leave_it() -> None:
    method = dataclasses.replace(ADAPTER_METHODS["nola"], start="zero")
    adaptation = adapt(method)
    with torch.no_grad():
        assert torch.equal(adaptation.model(inputs()), base_of(adaptation)(inputs()))
    losses = train(adaptation, steps=4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", METHODS)
def test_training_moves_what_is_trainable_and_nothing_else(name: str, training: bool) -> None:
    adaptation = adapt(METHODS[name])
    adaptation.model.train(training)
    before = {key: parameter.detach().clone() for key, parameter in adaptation.trainable().items()}
    frozen = fingerprint(adaptation.frozen())
    losses = train(adaptation, steps=4)
    assert fingerprint(adaptation.frozen()) == frozen
    for key, parameter in adaptation.trainable().items():
        assert not torch.equal(parameter, before[key]), f"{key} has not moved"
    if isinstance(METHODS[name], Frozen):
        assert not before
        assert not any(parameter.requires_grad for parameter in adaptation.model.parameters())
    else:
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_every_tensor_is_either_trainable_or_watched(name: str) -> None:
    adaptation = adapt(METHODS[name])
    trainable = {id(parameter) for parameter in adaptation.trainable().values()}
    frozen = {id(tensor) for _, tensor in adaptation.frozen()}
    everything = {id(tensor) for tensor in [*adaptation.model.parameters(), *adaptation.model.buffers()]}
    assert trainable | frozen == everything
    assert not trainable & frozen
    assert trainable == {id(parameter) for parameter in adaptation.model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_changed_frozen_number_changes_the_fingerprint(name: str) -> None:
    adaptation = adapt(METHODS[name])
    before = fingerprint(adaptation.frozen())
    for key, tensor in adaptation.frozen():
        with torch.no_grad():
            entry = tensor.view(-1)[-1:]
            kept = entry.clone()
            entry.copy_(torch.nextafter(kept, kept + 1))
            after = fingerprint(adaptation.frozen())
            assert {name for name in before if before[name] != after[name]} == {key}
            entry.copy_(kept)
    assert fingerprint(adaptation.frozen()) == before
