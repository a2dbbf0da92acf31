"""The vision code's Linear and fused attention, forward and backward (contract 10)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from published import assert_close, case_names, inject_with, method_for, nola_rows, paired, read
from torch import Tensor, nn

from randlora.adapter import Site
from randlora.inject import Adaptation
from randlora.methods.randlora import RandLoRAAdapter
from randlora.sites import find_sites

LINEAR = case_names("linear.npz")
# the vector of the published VeRA layer is on the input side: for us a transposed site, which has the weight form only
LINEAR_FORMS = [
    (case, form) for case in LINEAR for form in ("weight", "activation") if (case[:4], form) != ("vera", "activation")
]
ATTENTION = case_names("attention.npz")
UNUSED = {"lora": {"basis_a"}}  # stored for every case; LoRA has no bases


@dataclass(frozen=True, kw_only=True)
class Ours:
    """Bases and trained tensors in our layout, and which published gradient belongs to which trained tensor."""

    bases: dict[str, Tensor]
    trained: dict[str, Tensor]
    gradients: dict[str, Tensor]


def test_every_case_is_here() -> None:
    assert LINEAR == [
        "lora_12x20_r3",
        "nola_12x20_r2",
        "randlora_12x20_r5",
        "randlora_16x16_r6",
        "randlora_20x12_r4",
        "vera_12x20_r8",
    ]
    assert ATTENTION == ["lora_attn12_r4", "nola_attn12_r2", "randlora_attn12_r5", "vera_attn12_r6"]


def randlora(data: dict[str, Tensor], prefix: str) -> Ours:
    lambdas, gammas = data[f"{prefix}_loramat_B"], data[f"{prefix}_loramat_A"]
    return Ours(
        bases={"long": paired(data["basis_b"], len(lambdas)), "short": data["basis_a"][0]},
        trained={"lambdas": lambdas, "gammas": gammas},
        gradients={"lambdas": data[f"grad_{prefix}_loramat_B"], "gammas": data[f"grad_{prefix}_loramat_A"]},
    )


def vera(data: dict[str, Tensor], prefix: str) -> Ours:
    return Ours(
        bases={"left": data["basis_b"][0], "right": data["basis_a"][0]},
        trained={"b": data[f"{prefix}_loramat_vect"], "d": data[f"{prefix}_loramat"]},
        gradients={"b": data[f"grad_{prefix}_loramat_vect"], "d": data[f"grad_{prefix}_loramat"]},
    )


def lora(data: dict[str, Tensor], prefix: str, *, input_first: bool) -> Ours:
    b, a, grad_b, grad_a = (data[f"{lead}{prefix}_loramat_{side}"][0] for lead in ("", "grad_") for side in "BA")
    if input_first:
        return Ours(bases={}, trained={"a": b.T, "b": a.T}, gradients={"a": grad_b.T, "b": grad_a.T})
    return Ours(bases={}, trained={"a": a, "b": b}, gradients={"a": grad_a, "b": grad_b})


def nola(data: dict[str, Tensor], prefix: str, *, input_first: bool) -> Ours:
    first, second = nola_rows(data["basis_b"]), nola_rows(data["basis_a"].transpose(1, 2))
    order = ("right", "left") if input_first else ("left", "right")
    coefficients, gradients = data[f"{prefix}_loramat"], data[f"grad_{prefix}_loramat"]
    return Ours(
        bases=dict(zip(order, (first, second), strict=True)),
        trained=dict(zip(order, coefficients, strict=True)),
        gradients=dict(zip(order, gradients, strict=True)),
    )


def translate(case: str, data: dict[str, Tensor], prefix: str, *, input_first: bool) -> Ours:
    match case.partition("_")[0]:
        case "randlora":
            return randlora(data, prefix)
        case "vera":
            return vera(data, prefix)
        case "lora":
            return lora(data, prefix, input_first=input_first)
        case _:
            return nola(data, prefix, input_first=input_first)


def assert_gradients(adaptation: Adaptation, site: Site, ours: Ours) -> None:
    for name, parameter in adaptation.adapters[site.name].named_parameters():
        assert_close(parameter.grad, ours.gradients[name], name)


@pytest.mark.parametrize(("case", "contraction"), LINEAR_FORMS)
def test_linear_layer(case: str, contraction: str) -> None:
    data = read("linear.npz", case)
    layer = nn.Linear(data["weight"].shape[1], data["weight"].shape[0]).double()
    layer.load_state_dict({"weight": data["weight"], "bias": data["bias"]})
    model = nn.ModuleDict({"layer": layer})
    rows, columns = data["weight"].shape
    site = Site(name="layer.weight", out_features=rows, in_features=columns)
    if case.startswith("vera"):
        site = Site(name="layer.weight", out_features=columns, in_features=rows, transposed=True)
    ours = translate(case, data, "w", input_first=True)
    rank = data["basis_b"].shape[2]
    method = method_for(
        case, scale=float(data["scaling"]), contraction=contraction, rank=rank, bases=len(data["basis_b"])
    )
    adaptation = inject_with(model, method, [site], bases=ours.bases, trained={site.name: ours.trained})
    if rows == columns:
        adapter = adaptation.adapters[site.name]
        assert isinstance(adapter, RandLoRAAdapter)
        adapter.tall = False
    x = data["x"].requires_grad_()
    y = layer(x)
    y.backward(data["gy"])
    assert_close(y, data["y"], "y")
    assert_close(x.grad, data["grad_x"], "grad_x")
    assert_gradients(adaptation, site, ours)
    with torch.no_grad():
        adaptation.merge()
        assert_close(layer(x), data["y"], "merged y")
    assert data.unread == UNUSED.get(case.partition("_")[0], set())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", ATTENTION)
def test_fused_attention(case: str, training: bool) -> None:
    data = read("attention.npz", case)
    width = data["in_proj_weight"].shape[1]
    attention = nn.MultiheadAttention(width, int(data["heads"])).double().train(training)
    weights = ("in_proj_weight", "in_proj_bias", "out_proj_weight", "out_proj_bias")
    attention.load_state_dict({name.replace("out_proj_", "out_proj."): data[name] for name in weights})
    model = nn.ModuleDict({"attn": attention})
    sites = find_sites(model, ["attn.in_proj_weight"])
    ours = translate(case, data, "in_proj_w", input_first=False)
    rank = data["basis_b"].shape[2]
    method = method_for(case, scale=float(data["scaling"]), contraction="auto", rank=rank, bases=len(data["basis_b"]))
    adaptation = inject_with(model, method, list(sites), bases=ours.bases, trained={sites[0].name: ours.trained})
    x = data["x"].requires_grad_()
    y = attention(x, x, x, need_weights=False)[0]
    y.backward(data["gy"])
    assert_close(y, data["y"], "y")
    assert_close(x.grad, data["grad_x"], "grad_x")
    assert_gradients(adaptation, sites[0], ours)
    with torch.no_grad():
        adaptation.merge()
        assert_close(attention(x, x, x, need_weights=False)[0], data["y"], "merged y")
    assert data.unread == UNUSED.get(case.partition("_")[0], set())
