"""Contract 6: frozen bases and starts depend on the seed alone, and are kept once per model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from configs import ADAPTER_METHODS
from tiny_models import SITES, Tiny, adapt, changes, fitted, targets_of

from randlora.adapter import Shared
from randlora.inject import Adaptation

WITH_BASES = [
    name for name, method in ADAPTER_METHODS.items() if fitted(method).shared(targets_of(Tiny()).sites, 1) is not None
]


def grown(adaptation: Adaptation) -> dict[str, torch.Tensor]:
    """Return every start, and per site the change that all-one numbers make, which shows the bases it sees."""
    tensors = {name: parameter.detach().clone() for name, parameter in adaptation.trainable().items()}
    with torch.no_grad():
        for parameter in adaptation.trainable().values():
            parameter.fill_(1)
    return tensors | changes(adaptation)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() <= other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name].cpu()), name


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def apply_to(model: Tiny, name: str) -> Adaptation:
    return fitted(ADAPTER_METHODS[name]).apply(model, targets_of(model), seed=5)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_the_global_generator_is_neither_read_nor_moved(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = grown(adapt(ADAPTER_METHODS[name]))
        torch.manual_seed(2)
        state = torch.get_rng_state()
        other = grown(adapt(ADAPTER_METHODS[name]))
        assert torch.equal(torch.get_rng_state(), state)
    assert_same(one, other)


@pytest.mark.parametrize("policy", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_the_default_dtype_changes_nothing(name: str, policy: torch.dtype) -> None:
    expected = grown(adapt(ADAPTER_METHODS[name]))
    model = Tiny()
    with default_dtype(policy):
        adaptation = apply_to(model, name)
    assert_same(expected, grown(adaptation))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_the_default_device_changes_nothing(name: str) -> None:
    expected = grown(adapt(ADAPTER_METHODS[name]))
    model = Tiny()
    with torch.device("meta"):
        adaptation = apply_to(model, name)
    assert_same(expected, grown(adaptation))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_the_device_of_the_model_changes_nothing(name: str) -> None:
    adaptations = [apply_to(Tiny().to(device), name) for device in ("cpu", "cuda")]
    bases = [[t.cpu() for a in one.adapters.values() for t in [*a.parameters(), *a.buffers()]] for one in adaptations]
    assert all(torch.equal(left, right) for left, right in zip(*bases, strict=True))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_further_larger_site_changes_nothing(name: str) -> None:
    expected = grown(adapt(ADAPTER_METHODS[name]))
    assert_same(expected, grown(adapt(ADAPTER_METHODS[name], larger=True, patterns=(*SITES, "huge.weight"))))


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_subset_of_the_sites_sees_the_same(name: str) -> None:
    full = grown(adapt(ADAPTER_METHODS[name]))
    few = adapt(ADAPTER_METHODS[name], patterns=["square.weight"])
    for key, parameter in few.trainable().items():
        assert torch.equal(parameter, full[key])


@pytest.mark.parametrize("name", WITH_BASES)
def test_another_seed_gives_other_bases(name: str) -> None:
    one, other = (grown(adapt(ADAPTER_METHODS[name], seed=seed)) for seed in (5, 6))
    assert not any(torch.equal(one[site], other[site]) for site in SITES)


@pytest.mark.parametrize("name", [name for name in ADAPTER_METHODS if name not in WITH_BASES])
def test_another_seed_gives_another_start(name: str) -> None:
    one, other = (adapt(ADAPTER_METHODS[name], seed=seed).trainable() for seed in (5, 6))
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_random_starts_differ_from_site_to_site(name: str) -> None:
    starts = [start for start in adapt(ADAPTER_METHODS[name]).trainable().values() if len(start.unique()) > 1]
    for i, one in enumerate(starts):
        assert not any(one.shape == other.shape and torch.equal(one, other) for other in starts[:i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WITH_BASES)
def test_bases_are_stored_once_per_model_and_never_saved(name: str, dtype: torch.dtype) -> None:
    adaptation = adapt(ADAPTER_METHODS[name], dtype=dtype)
    holders = {id(m): m for adapter in adaptation.adapters.values() for m in adapter.modules() if isinstance(m, Shared)}
    assert len(holders) == 1
    (shared,) = holders.values()
    buffers = [tensor for adapter in adaptation.adapters.values() for tensor in adapter.buffers()]
    assert {tensor.data_ptr() for tensor in buffers} == {tensor.data_ptr() for tensor in shared.buffers()}
    assert len(buffers) == len(SITES) * len(list(shared.buffers()))
    assert not any("bases" in key for key in adaptation.model.state_dict())
    assert all(not tensor.requires_grad for tensor in buffers)
