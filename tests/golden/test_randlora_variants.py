"""The published variants of RandLoRA: their facts, and their formulas written out."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from configs import build
from published import assert_close, inject_with, read
from test_golden_peft import LAYERS, Layers
from torch import Tensor

from randlora.adapter import Site
from randlora.methods.randlora import RandLoRA
from randlora.sites import find_sites

VIT_B = {name: Site(name=name, out_features=rows, in_features=768) for name, rows in {"qkv": 2304, "fc": 3072}.items()}
NARROW = Site(name="down", out_features=12, in_features=20)
WIDE = Site(name="up", out_features=20, in_features=12)


def variant(name: str, **changes: object) -> RandLoRA:
    method = build("method", name)
    assert isinstance(method, RandLoRA)
    return RandLoRA(**{**vars(method), **changes})


def adapter_of(method: RandLoRA, site: Site) -> torch.nn.Module:
    adapter = method.adapt(site, method.shared([site], 1), torch.Generator().manual_seed(2)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return adapter


# paper sections 2.3 and 2.4 of the sources: name, scale on a 768-wide layer, bases, start of Lambda, start of Gamma
FACTS = [
    ("randlora", 10 / 6, 128, 1 / 128, 0.0),
    ("randlora_vision", 10 / 6, 128, 1 / 128, 0.0),
    ("randlora_llm", 2 / sqrt(25), 25, 0.0, 1 / 768),
    ("randlora_peft", 20.0, 24, 0.0, 1 / 768),
    ("randlora_a", 10 / 32, 124, 1 / 124, 0.0),
    ("randlora_b", 10 / 3, 128, 1 / 128, 0.0),
]


@pytest.mark.parametrize("site", VIT_B)
@pytest.mark.parametrize(("name", "scale", "bases", "lambdas", "gammas"), FACTS)
def test_facts(name: str, scale: float, bases: int, lambdas: float, gammas: float, site: str) -> None:
    method = variant(name)
    adapter = method.adapt(VIT_B[site], method.shared([VIT_B[site]], 1), torch.Generator())
    assert adapter.scale == pytest.approx(scale, rel=1e-12)
    assert adapter.lambdas.shape == (bases, method.rank)
    assert adapter.gammas.shape == (bases, 768)
    assert torch.all(adapter.lambdas == torch.tensor(lambdas))
    assert torch.all(adapter.gammas == torch.tensor(gammas))


def test_a_and_b_have_the_number_of_parameters_and_the_ranks_of_the_ablation() -> None:
    whole, a, b = (variant(name) for name in ("randlora", "randlora_a", "randlora_b"))
    for site in VIT_B.values():
        assert whole.n_trainable(site) == 128 * 774
        for other in (a, b):
            assert abs(other.n_trainable(site) / whole.n_trainable(site) - 1) < 0.005
        assert [method.update_rank(site) for method in (a, b, whole)] == [32, 384, 768]


@pytest.mark.parametrize(
    ("name", "distribution", "sparsity", "zeros"),
    [
        ("randlora", "uniform", 6.0, 0.0),
        ("randlora_normal", "normal", 6.0, 0.0),
        ("randlora_binary", "ternary", 2.0, 0.0),
        ("randlora_ternary_6", "ternary", 6.0, 0.66),
        ("randlora_ternary_sqrt", "ternary", sqrt(768), 0.93),
        ("randlora_ternary_100", "ternary", 100.0, 0.98),
        ("randlora_ternary_200", "ternary", 200.0, 0.99),
    ],
)
def test_bases_have_the_printed_share_of_zeros(name: str, distribution: str, sparsity: float, zeros: float) -> None:
    method = variant(name)
    assert (method.distribution, method.sparsity) == (distribution, sparsity)
    assert vars(method) == {**vars(variant("randlora")), "distribution": distribution, "sparsity": sparsity}
    long = method.shared(list(VIT_B.values()), 1).get_buffer("long")
    assert long.shape == (3072, 768)
    assert float((long == 0).double().mean()) == pytest.approx(zeros, abs=0.01)
    assert float(long.double().square().mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("site", [NARROW, WIDE], ids=lambda site: site.name)
@pytest.mark.parametrize("stacking", ["basis_major", "rank_major"])
def test_sum_of_products_is_the_equation(site: Site, stacking: str) -> None:
    method = variant("randlora", rank=4, stacking=stacking)
    adapter = adapter_of(method, site)
    long, short = (adapter.bases.get_buffer(name) for name in ("long", "short"))
    n = method.n_bases(site)
    expected = torch.zeros(site.long, site.short, dtype=torch.float64)
    for j in range(n):
        columns = [j * 4 + k if stacking == "basis_major" else k * n + j for k in range(4)]
        expected += long[:, columns] @ adapter.lambdas[j].diag() @ short @ adapter.gammas[j].diag()
    expected = expected * adapter.scale
    assert_close(adapter.delta(), expected if site is WIDE else expected.T, "update")


@pytest.mark.parametrize("site", [NARROW, WIDE], ids=lambda site: site.name)
def test_product_of_sums_is_its_formula(site: Site) -> None:
    method = variant("randlora_a", rank=3, bases=5)
    adapter = adapter_of(method, site)
    long, short = (adapter.bases.get_buffer(name) for name in ("long", "short"))
    assert short.shape == (15, site.short)
    left = sum(long[:, 3 * j : 3 * j + 3] @ adapter.lambdas[j].diag() for j in range(5))
    right = sum(short[3 * j : 3 * j + 3] @ adapter.gammas[j].diag() for j in range(5))
    expected = left @ right * adapter.scale
    assert_close(adapter.delta(), expected if site is WIDE else expected.T, "update")


@pytest.mark.parametrize("contraction", ["weight", "activation"])
def test_rank_major_is_the_pairing_of_peft(contraction: str) -> None:
    """The bases go in as peft holds them: nothing is permuted, whatever the number of bases of a layer."""
    data = read("peft.npz", "randlora")
    b, a = data["buffer/up.randlora_B.default"], data["buffer/up.randlora_A.default"]
    method = variant("randlora_peft", rank=5, alpha=10.0, contraction=contraction)
    model = Layers(data)

    def published(kind: str, layer: str) -> dict[str, Tensor]:
        names = {"lambdas": "randlora_lambda", "gammas": "randlora_gamma"}
        tensors = {ours: data[f"{kind}/{layer}.{theirs}"] for ours, theirs in names.items()}
        return {**tensors, "lambdas": tensors["lambdas"].T}

    adaptation = inject_with(
        model,
        method,
        list(find_sites(model, [f"{name}.weight" for name in LAYERS])),
        bases={"long": b.flatten(1), "short": a[:, 0]},
        trained={f"{layer}.weight": published("param", layer) for layer in LAYERS},
    )
    x = data["x"].requires_grad_()
    y = model(x)
    y.backward(data["gy"])
    assert_close(y, data["y"], "y")
    assert_close(x.grad, data["grad_x"], "grad_x")
    for layer in LAYERS:
        for ours, parameter in adaptation.adapters[f"{layer}.weight"].named_parameters():
            assert_close(parameter.grad, published("grad", layer)[ours], f"{layer} {ours}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bases": 5},
            r"RandLoRA.bases = 5 with basis_count = 'floor'; valid: a whole number with basis_count",
        ),
        ({"basis_count": "given"}, r"RandLoRA.bases = None with basis_count = 'given'"),
        ({"basis_count": "given", "bases": 0}, r"RandLoRA.bases = 0; valid: a whole number of 1 or more"),
        ({"stacking": "columns"}, r"RandLoRA.stacking = 'columns'; valid: 'basis_major', 'rank_major'"),
        ({"composition": "mean"}, r"RandLoRA.composition = 'mean'; valid: 'sum_of_products', 'product_of_sums'"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant("randlora", **changes)


def test_half_of_less_than_two_bases_is_refused_with_the_site() -> None:
    with pytest.raises(ValueError, match=r"rank 7 leaves site 'down' \(12 x 20\) without a basis.*valid: 1 to 6"):
        variant("randlora_b", rank=7).check_site(NARROW)
