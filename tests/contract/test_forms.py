"""Contract 7: activation form equals weight form, gradients are exact, and a weight is adapted once per forward."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from test_counts import SHAPES
from tiny_models import LINEAR_SITES, SITES, adapt, changes, fitted, inputs, perturb, train
from torch import Tensor

from randlora.adapter import Adapter, AdapterMethod, Site, TwoFactorMethod
from randlora.inject import owner_of

TWO_FACTOR = [name for name, method in ADAPTER_METHODS.items() if isinstance(method, TwoFactorMethod)]


def subclasses(cls: type) -> Iterator[type]:
    for below in cls.__subclasses__():
        yield below
        yield from subclasses(below)


def counted(original: Callable[[Adapter, Tensor], Tensor], counts: Counter[int]) -> Callable[[Adapter, Tensor], Tensor]:
    def adapted(self: Adapter, weight: Tensor) -> Tensor:
        counts[id(self)] += 1
        return original(self, weight)

    return adapted


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Counts how often each adapter forms its weight."""
    counts: Counter[int] = Counter()
    for cls in subclasses(Adapter):
        if "adapted" in vars(cls):
            monkeypatch.setattr(cls, "adapted", counted(cls.adapted, counts))
    return counts


def test_every_kind_of_adapter_is_here() -> None:
    assert 0 < len(TWO_FACTOR) < len(ADAPTER_METHODS)


@pytest.mark.parametrize("name", TWO_FACTOR)
def test_activation_form_equals_weight_form(name: str, formed: Counter[int]) -> None:
    results = []
    for contraction in ("weight", "activation", "auto"):
        method = dataclasses.replace(ADAPTER_METHODS[name], contraction=contraction)
        adaptation = adapt(method, dtype=torch.float64, patterns=LINEAR_SITES)
        perturb(adaptation)
        x = inputs(dtype=torch.float64).requires_grad_()
        formed.clear()
        y = adaptation.model(x)
        assert sum(formed.values()) == {"weight": len(LINEAR_SITES), "activation": 0}.get(contraction, formed.total())
        y.square().sum().backward()
        gradients = {key: parameter.grad for key, parameter in adaptation.trainable().items()}
        results.append({"y": y.detach(), "x": x.grad, **gradients})
    reference, *others = results
    for other in others:
        for key, value in reference.items():
            assert (other[key] - value).abs().max() <= 1e-12 * max(1.0, float(value.abs().max())), key


def differentiable(method: AdapterMethod) -> AdapterMethod:
    """Return the method with every part differentiated: DoRA's own gradient takes the norm as a constant."""
    if method.exact_gradient:
        return method
    method = dataclasses.replace(method, norm_gradient=True)
    assert method.exact_gradient
    return method


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_gradients_are_exact(name: str, shape: str) -> None:
    rows, columns = SHAPES[shape]
    site = Site(name="w", out_features=rows, in_features=columns)
    method = differentiable(fitted(ADAPTER_METHODS[name], min(3, site.short)))
    adapter = method.adapt(site, method.shared([site], 1), torch.Generator().manual_seed(2)).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *_: adapter.adapted(weight), tuple(adapter.parameters()))


@pytest.mark.parametrize("mode", ["train", "eval with gradients", "eval"])
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_attention_reads_its_adapted_weight_once(name: str, mode: str, formed: Counter[int]) -> None:
    adaptation = adapt(ADAPTER_METHODS[name], patterns=["attention.in_proj_weight", "attention.out_proj.weight"])
    adaptation.model.train(mode == "train")
    for _ in range(2):
        formed.clear()
        with torch.set_grad_enabled(mode != "eval"):
            adaptation.model(inputs())
        assert formed == {id(adapter): 1 for adapter in adaptation.adapters.values()}


@pytest.mark.parametrize("contraction", ["weight", "activation"])
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_weight_read_after_a_forward_is_up_to_date(name: str, contraction: str) -> None:
    method = ADAPTER_METHODS[name]
    if isinstance(method, TwoFactorMethod):
        method = dataclasses.replace(method, contraction=contraction)
    adaptation = adapt(method, patterns=LINEAR_SITES)
    for seed in (1, 2):
        with torch.no_grad():
            adaptation.model(inputs())
            perturb(adaptation, seed=seed)
            expected = changes(adaptation)
            for site in adaptation.sites:
                owner, tensor = owner_of(adaptation.model, site.name)
                change = getattr(owner, tensor) - owner.parametrizations[tensor].original
                change = change.T if site.transposed else change
                assert torch.allclose(change, expected[site.name], atol=1e-5)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_failed_forward_leaves_nothing_behind(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name])
    perturb(adaptation)
    with torch.no_grad():
        expected = adaptation.model(inputs())
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            adaptation.model.wide(inputs())
        with pytest.raises(AssertionError):
            adaptation.model.attention(inputs(), inputs(), inputs())
        perturb(adaptation, seed=9)
        changed = adaptation.model(inputs())
    assert not torch.equal(changed, expected)
    assert not torch.equal(adaptation.model.wide.weight, adapt(ADAPTER_METHODS[name]).model.wide.weight)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trains_backbone])
def test_bfloat16_autocast_trains_float32_numbers(name: str) -> None:
    adaptation = adapt(METHODS[name])
    adaptation.model.train()
    # without the cache: it lives as long as the context, here all steps, and would hold the first casts of weights
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        losses = train(adaptation, steps=15)
    assert losses[-1] < 0.97 * losses[0]
    for parameter in adaptation.trainable().values():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_half_precision_model_keeps_float32_adapters(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name], dtype=torch.bfloat16)
    losses = train(adaptation, steps=10)
    assert losses[-1] < losses[0]
    assert {parameter.dtype for parameter in adaptation.trainable().values()} == {torch.float32}
    assert adaptation.model(inputs(dtype=torch.bfloat16)).dtype == torch.bfloat16
    adaptation.merge()
    assert {parameter.dtype for parameter in adaptation.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_checkpointed_blocks_give_the_same_gradients(name: str) -> None:
    from torch.utils.checkpoint import checkpoint

    gradients = []
    for recompute in (False, True):
        adaptation = adapt(ADAPTER_METHODS[name], dtype=torch.float64)
        perturb(adaptation)
        x = inputs(dtype=torch.float64)
        y = checkpoint(adaptation.model, x, use_reentrant=False) if recompute else adaptation.model(x)
        y.square().sum().backward()
        gradients.append({key: parameter.grad for key, parameter in adaptation.trainable().items()})
    plain, recomputed = gradients
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


@pytest.mark.parametrize("name", TWO_FACTOR)
def test_auto_follows_the_number_of_tokens(name: str, formed: Counter[int]) -> None:
    adaptation = adapt(ADAPTER_METHODS[name])
    with torch.no_grad():
        adaptation.model(inputs(tokens=1)[:1])
        few = formed.total()
        formed.clear()
        adaptation.model(inputs(tokens=2000))
    assert few == 1
    assert formed.total() == len(SITES)
