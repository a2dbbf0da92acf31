"""Adapters beside weights that are packed into integers: the same numbers as on the weights in floating point."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from int8_layers import PACKED, in_floating_point, int8_tiny, packed_targets
from tiny_models import Tiny, fitted, inputs, perturb, targets_of
from torch import nn
from torch.nn import functional as F

from randlora.adapter import TwoFactorMethod
from randlora.audit.contract import audit
from randlora.execution import Execution
from randlora.inject import Adaptation, fingerprint
from randlora.storage import StorageError, load_adapter, save_adapter

TWO_FACTOR = [name for name, method in ADAPTER_METHODS.items() if isinstance(method, TwoFactorMethod)]


def adapted(name: str, model: nn.Module, execution: Execution | None = None) -> Adaptation:
    chosen = {} if execution is None else {"execution": execution}
    return fitted(ADAPTER_METHODS[name]).apply(model, packed_targets(model), seed=5, **chosen)


def both(name: str) -> tuple[Adaptation, Adaptation]:
    """The same trained adapters on packed weights, and on the numbers that these stand for."""
    pair = adapted(name, int8_tiny()), adapted(name, in_floating_point())
    for one in pair:
        perturb(one, std=0.05)  # of ternary bases an update is loud, and so is its rounding
    return pair


def test_sites_have_the_sides_of_the_layer() -> None:
    packed, plain = packed_targets(int8_tiny()), packed_targets(Tiny())
    assert packed.sites == plain.sites
    assert [site.name for site in packed.sites] == list(PACKED)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_outputs_and_gradients_are_those_in_floating_point(name: str) -> None:
    packed, plain = both(name)
    x, goal = inputs(), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(8))
    outputs = []
    for one in (packed, plain):
        outputs.append(one.model.train()(x))
        (outputs[-1] - goal).square().mean().backward()
    base = in_floating_point()(x)
    assert torch.allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0], base, rtol=1e-2, atol=1e-2)
    expected = {key: parameter.grad for key, parameter in plain.trainable().items()}
    for key, parameter in packed.trainable().items():
        largest = expected[key].abs().max()
        assert largest > 0
        assert (parameter.grad - expected[key]).abs().max() <= 1e-3 * largest, key


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_it_starts_at_the_base_and_leaves_it_as_it_was(name: str) -> None:
    model = int8_tiny()
    with torch.no_grad():
        base = model(inputs())
    before = fingerprint(model.named_parameters())
    keys = set(model.state_dict())
    adaptation = adapted(name, model)
    with torch.no_grad():
        assert torch.equal(model(inputs()), base) == adaptation.method.starts_at_base
    perturb(adaptation)
    optimizer = torch.optim.AdamW(adaptation.trainable().values(), lr=1e-2)
    model.train()(inputs()).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(model.eval()(inputs()), base, atol=1e-4)
        adaptation.remove()
        assert torch.equal(model(inputs()), base)
    assert fingerprint(model.named_parameters()) == before
    assert set(model.state_dict()) == keys


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_merging_leaves_them_beside_and_a_model_in_floating_point_takes_them(name: str, tmp_path: Path) -> None:
    packed, _ = both(name)
    with torch.no_grad():
        expected = packed.model(inputs())
        assert torch.equal(packed.merge()(inputs()), expected)
        assert [site.name for site in packed.sites] == list(PACKED)
        assert packed.model.get_parameter("tall.weight").dtype == torch.int8
        save_adapter(tmp_path / "adapter.safetensors", packed)
        again, _ = load_adapter(tmp_path / "adapter.safetensors", int8_tiny())
        assert torch.equal(again.model(inputs()), expected)
        plain, _ = load_adapter(tmp_path / "adapter.safetensors", in_floating_point())
        assert torch.allclose(plain.merge()(inputs()), expected, rtol=1e-4, atol=1e-5)
        assert plain.sites == ()


def test_weights_in_floating_point_beside_packed_ones_are_merged() -> None:
    model = int8_tiny()
    adaptation = fitted(ADAPTER_METHODS["lora"]).apply(model, targets_of(model), seed=5)
    perturb(adaptation)
    with torch.no_grad():
        expected = model(inputs())
        assert torch.allclose(adaptation.merge()(inputs()), expected, atol=1e-5)
    assert [site.name for site in adaptation.sites] == list(PACKED) == list(adaptation.adapters)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["lora", "randlora", "dora"])
def test_dropout_takes_numbers_from_the_input_of_the_update_alone(name: str) -> None:
    packed, plain = both(name)
    layer, reference = packed.model.get_submodule("wide"), plain.model.get_submodule("wide")
    x = torch.randn(3, 7, 20, generator=torch.Generator().manual_seed(2))
    packed.drop_inputs(0.5)
    with torch.no_grad():
        whole, change = layer.eval()(x), reference.weight - in_floating_point().wide.weight
        torch.manual_seed(9)
        found = layer.train()(x)
        torch.manual_seed(9)
        left = F.dropout(x, 0.5)
        assert torch.allclose(found, whole + (left - x) @ change.T, atol=1e-4)
    assert not torch.allclose(found, whole, atol=1e-3)


@pytest.mark.parametrize(
    "execution",
    [
        Execution(adapted_weights="rebuild"),
        Execution(bases="compact"),
        Execution(accumulate=True),
    ],
    ids=["rebuild", "compact", "accumulate"],
)
@pytest.mark.parametrize("name", ["randlora", "randlora_ternary_6", "dora"])
def test_execution_choices_change_no_gradient(name: str, execution: Execution) -> None:
    gradients = []
    for chosen in (None, execution):
        adaptation = adapted(name, int8_tiny(), chosen)
        perturb(adaptation)
        with adaptation.accumulating():
            adaptation.model.train()(inputs()).square().mean().backward()
        gradients.append([parameter.grad for parameter in adaptation.trainable().values()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", TWO_FACTOR)
def test_weight_form_is_refused(name: str) -> None:
    method = dataclasses.replace(ADAPTER_METHODS[name], contraction="weight")
    model = int8_tiny()
    with pytest.raises(ValueError, match=r"site 'tall.weight' is quantised and cannot .* method.contraction=auto"):
        fitted(method).apply(model, packed_targets(model), seed=5)
    assert not any(name.endswith("adapted_weight") for name, _ in model.named_modules())


def test_methods_that_need_the_weights_are_refused() -> None:
    model = int8_tiny()
    with pytest.raises(ValueError, match=r"'tall.weight' is quantised, and FullFineTuning trains .*quantize=null"):
        METHODS["full_ft"].apply(model, packed_targets(model), seed=5)
    with pytest.raises(ValueError, match=r"site 'tall.weight' holds torch.int8; an adapter needs a floating-point"):
        fitted(METHODS["peft"]).apply(model, packed_targets(model), seed=5)


def test_a_second_adapter_and_integers_of_unknown_meaning_are_refused() -> None:
    model = int8_tiny()
    adapted("lora", model)
    with pytest.raises(ValueError, match=r"site 'tall.weight' has an adapter already; merge it before"):
        adapted("lora", model)
    other = int8_tiny()
    other.tall.weight = nn.Parameter(torch.zeros(20, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"site 'tall.weight' holds torch.int8; an adapter needs a floating-point"):
        adapted("lora", other)


def test_an_input_by_name_would_pass_the_adapter_by() -> None:
    adaptation = adapted("lora", int8_tiny())
    layer = adaptation.model.get_submodule("tall")
    with pytest.raises(
        ValueError, match=r"layer of 'tall.weight' is quantised and adapted: give its input by position"
    ):
        layer(x=inputs())
    assert torch.isfinite(layer(inputs())).all()


def test_a_saved_adapter_of_other_sides_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter.safetensors", adapted("lora", int8_tiny()))
    model = int8_tiny()
    model.wide = type(model.wide).of(nn.Linear(20, 13))
    with pytest.raises(StorageError, match=r"site 'wide.weight' of shape \[12, 20\]; this model has it as \[13, 20\]"):
        load_adapter(tmp_path / "adapter.safetensors", model)


def test_the_audit_says_that_it_does_not_apply() -> None:
    model = int8_tiny()
    method = fitted(ADAPTER_METHODS["lora"])
    (finding,) = audit(model, method, packed_targets(model), probe=lambda: model(inputs()))
    assert finding.passed is None
    assert "'tall.weight' is quantised" in finding.detail
