"""What cannot be injected is refused with the site's name, before anything is changed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from tiny_models import SITES, Tiny, adapt, fitted, inputs, targets_of
from torch import nn

from randlora.adapter import AdapterMethod, Site, TwoFactorMethod
from randlora.inject import fingerprint, inject
from randlora.methods.vera import VeRA
from randlora.sites import find_sites

TWO_FACTOR = [name for name, method in ADAPTER_METHODS.items() if isinstance(method, TwoFactorMethod)]
BOUNDED = [name for name, method in ADAPTER_METHODS.items() if hasattr(method, "rank") and not isinstance(method, VeRA)]


def with_rank(name: str, rank: int) -> AdapterMethod:
    return dataclasses.replace(ADAPTER_METHODS[name], rank=rank)


@pytest.mark.parametrize("name", BOUNDED)
def test_a_rank_above_the_short_side_names_the_site(name: str) -> None:
    model = Tiny()
    with pytest.raises(ValueError, match=r"rank 9 does not fit site 'tall.weight' \(20 x 8\); valid: 1 to 8"):
        with_rank(name, 9).apply(model, targets_of(model), seed=1)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_vera_may_have_a_rank_above_every_side() -> None:
    method = dataclasses.replace(ADAPTER_METHODS["vera"], rank=50)
    model = Tiny()
    adaptation = method.apply(model, targets_of(model), seed=1)
    assert adaptation.adapters["tall.weight"].factors()[0].shape == (20, 50)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_second_adapter_on_a_site_is_refused(name: str) -> None:
    adaptation = adapt(ADAPTER_METHODS[name])
    with torch.no_grad():
        before = adaptation.model(inputs())
    with pytest.raises(ValueError, match=r"site 'tall.weight' has an adapter already; merge it before"):
        inject(adaptation.model, method=adaptation.method, sites=adaptation.sites, seed=1)
    with torch.no_grad():
        assert torch.equal(adaptation.model(inputs()), before)


def test_an_integer_weight_is_refused() -> None:
    model = Tiny()
    model.wide.weight = nn.Parameter(torch.zeros(12, 20, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"site 'wide.weight' holds torch.int8; an adapter needs a floating-point"):
        fitted(ADAPTER_METHODS["lora"]).apply(model, targets_of(model), seed=1)


def test_a_weight_without_values_is_refused() -> None:
    model = Tiny()
    model.wide.weight = nn.Parameter(model.wide.weight.to("meta"))
    with pytest.raises(ValueError, match=r"site 'wide.weight' has no values yet \(meta device\); load the weights"):
        fitted(ADAPTER_METHODS["lora"]).apply(model, targets_of(model), seed=1)


def test_a_mix_of_double_and_lower_precision_is_refused() -> None:
    model = Tiny()
    model.wide.double()
    with pytest.raises(ValueError, match=r"site 'wide.weight' holds torch.float64 and 'tall.weight' torch.float32"):
        fitted(ADAPTER_METHODS["randlora"]).apply(model, targets_of(model), seed=1)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_sites_on_two_devices_are_refused() -> None:
    model = Tiny()
    model.wide.cuda()
    with pytest.raises(ValueError, match=r"site 'wide.weight' is on cuda:0 and 'tall.weight' on cpu; adapters share"):
        fitted(ADAPTER_METHODS["randlora"]).apply(model, targets_of(model), seed=1)


@pytest.mark.parametrize("site", ["attention.in_proj_weight", "attention.out_proj.weight"])
@pytest.mark.parametrize("name", TWO_FACTOR)
def test_attention_does_not_run_on_activations(name: str, site: str) -> None:
    method = dataclasses.replace(fitted(ADAPTER_METHODS[name]), contraction="activation")
    model = Tiny()
    with pytest.raises(ValueError, match=f"site '{site}' is read by its attention module.*contraction=auto"):
        method.apply(model, targets_of(model, [site]), seed=1)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_no_site_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no site to adapt"):
        inject(Tiny(), method=ADAPTER_METHODS[name], sites=(), seed=1)


def test_one_fingerprint_per_tensor_and_every_bit_counts() -> None:
    tensor = torch.arange(10, dtype=torch.float32)
    before = fingerprint(iter([("t", tensor)]))
    swapped = tensor.flip(0)
    assert fingerprint(iter([("t", swapped)])) != before
    negative_zero = tensor.clone()
    negative_zero[0] = -0.0
    assert fingerprint(iter([("t", negative_zero)])) != before
    assert fingerprint(iter([("t", tensor.clone())])) == before
    for dtype in (torch.bfloat16, torch.float64, torch.int64, torch.bool):
        assert set(fingerprint(iter([("t", tensor.to(dtype))]))) == {"t"}


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_a_single_unbatched_token_and_an_empty_batch_run(name: str) -> None:
    layer = nn.ModuleDict({"layer": nn.Linear(8, 6)})
    sites = find_sites(layer, ["layer.weight"])
    inject(layer, method=fitted(ADAPTER_METHODS[name]), sites=sites, seed=1)
    assert layer["layer"](torch.randn(8)).shape == (6,)
    assert layer["layer"](torch.randn(0, 8)).shape == (0, 6)


def test_names_of_trainable_tensors_start_with_their_site() -> None:
    names = adapt(ADAPTER_METHODS["randlora"]).trainable()
    assert set(names) == {f"{site}:{part}" for site in SITES for part in ("lambdas", "gammas")}


WRONG = [
    ("rank", 0, "whole number of 1 or more"),
    ("rank", 2.5, "whole number of 1 or more"),
    ("rank", True, "whole number of 1 or more"),
    ("alpha", -1.0, "a number above 0"),
    ("alpha", float("nan"), "a number above 0"),
    ("alpha", float("inf"), "a number above 0"),
    ("alpha", "1", "a number above 0"),
    ("scale_rule", "over_r", "'constant', 'over_rank', 'over_sqrt_rank', 'over_sqrt_bases'"),
    ("contraction", "weights", "'auto', 'weight', 'activation'"),
]


@pytest.mark.parametrize(
    ("name", "field", "value", "valid"),
    [(name, *wrong) for name, method in ADAPTER_METHODS.items() for wrong in WRONG if hasattr(method, wrong[0])],
)
def test_a_value_out_of_range_names_field_and_range(name: str, field: str, value: object, valid: str) -> None:
    method = ADAPTER_METHODS[name]
    with pytest.raises(ValueError, match=rf"{type(method).__name__}\.{field} = .*; valid: .*{valid}"):
        dataclasses.replace(method, **{field: value})


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("randlora", "basis_count", "round"),
        ("randlora", "zero_diagonal", "both"),
        ("randlora", "distribution", "sparse"),
        ("randlora", "sparsity", 1.5),
        ("randlora", "sparsity", "six"),
        ("nola", "start", "random"),
        ("nola", "bases", 0),
        ("nola", "basis_scale", "std"),
        ("nola", "keep_bases", 1),
        ("vera", "d_initial", 0.0),
        ("vera", "basis_scale", "over_sqrt_bases"),
        ("dora", "norm_gradient", "no"),
        ("kradapter", "root_of", "in"),
        ("kradapter", "fast", "slow"),
        ("kradapter", "kaiming_a", 0.0),
        ("kradapter", "scale", -1.0),
        ("zero_shot", "head", "none"),
    ],
)
def test_fields_of_single_methods_are_checked(name: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"\.{field} = {value!r}; valid: "):
        dataclasses.replace(METHODS[name], **{field: value})


def test_a_site_is_found_by_its_name_only() -> None:
    site = Site(name="nowhere.weight", out_features=4, in_features=4)
    with pytest.raises(AttributeError, match="nowhere"):
        inject(Tiny(), method=fitted(ADAPTER_METHODS["lora"]), sites=[site], seed=1)
