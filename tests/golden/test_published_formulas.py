"""Methods whose publishers left no numbers: our updates beside their formulas, written out entry by entry."""

from __future__ import annotations

import math

import pytest
import torch
from configs import METHODS
from torch import Tensor

from randlora.adapter import AdapterMethod, Site, TwoFactorAdapter
from randlora.methods.nola import draw

SHAPES = {"tall": (20, 12), "wide": (12, 20), "square": (16, 16), "not dividing": (13, 7), "narrow": (5, 40)}


def site_of(shape: str) -> Site:
    rows, columns = SHAPES[shape]
    return Site(name="w", out_features=rows, in_features=columns)


def adapter_of(method: AdapterMethod, site: Site) -> TwoFactorAdapter:
    adapter = method.adapt(site, method.shared([site], 7), torch.Generator().manual_seed(2)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return adapter


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["kradapter", "kradapter_toy"])
def test_kradapter(name: str, shape: str) -> None:
    site = site_of(shape)
    adapter = adapter_of(METHODS[name], site)
    layer = name == "kradapter"
    r1 = math.floor(math.sqrt(site.short if layer else site.long))
    r2 = math.ceil(site.long / r1)
    assert adapter.zero.shape == (site.short, r1)
    assert adapter.random.shape == (site.short, r2)
    update = adapter.delta()
    for i in range(site.short):
        for j in range(site.long):
            if layer:
                entry = 2 * adapter.random[i, j // r1] * adapter.zero[i, j % r1]
            else:
                entry = adapter.zero[i, j // r2] * adapter.random[i, j % r2]
            place = (i, j) if site.out_features <= site.in_features else (j, i)
            assert abs(update[place] - entry) < 1e-12


@pytest.mark.parametrize(("name", "a"), [("kradapter", 5), ("kradapter_toy", math.sqrt(5))])
def test_kradapter_starts_as_torch_initialises(name: str, a: float) -> None:
    site = Site(name="w", out_features=300, in_features=200)
    adapter = METHODS[name].adapt(site, None, torch.Generator().manual_seed(2))
    fan = adapter.random.shape[1]
    bound = torch.nn.init.calculate_gain("leaky_relu", a) * math.sqrt(3 / fan)
    assert not adapter.zero.any()
    assert 0.99 * bound < adapter.random.abs().max() <= bound


def stack(side: str, rows: int, *, rank: int, bases: int) -> Tensor:
    """Return the published (bases, rows, rank) of our rows."""
    drawn = draw(side, rows, rank * bases, seed=7, distribution="uniform")
    return drawn.double().view(rows, rank, bases).permute(2, 0, 1) / math.sqrt(3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("nola")])
def test_nola(name: str, shape: str) -> None:
    site = site_of(shape)
    method = METHODS[name].resized(30)
    rank, k, (rows, columns) = min(method.rank, 4), 30, SHAPES[shape]
    method = METHODS[name].__class__(**{**vars(method), "rank": rank})
    adapter = adapter_of(method, site)
    # on (-1, 1)
    b = stack("left", rows, rank=rank, bases=k)
    a = stack("right", columns, rank=rank, bases=k)
    constant = torch.zeros(columns, rank, dtype=torch.float64)
    scale = 1.0
    match name:
        case "nola":
            b, a = b * math.sqrt(3), a * math.sqrt(3)
        case "nola_vit":
            b, a = b / math.sqrt(rank * rows), a / math.sqrt(rank * columns)
        case "nola_llm":
            b, a, scale = b / math.sqrt(k), a / math.sqrt(k), 4 / rank
            frozen = draw("frozen a", rank, columns, seed=7, distribution="uniform").T.double()
            constant = frozen / math.sqrt(3) / math.sqrt(columns)
        case "nola_randlora_llm":
            b, a, scale = b * math.sqrt(3), a * math.sqrt(3), 2 / math.sqrt(k)
    left = torch.einsum("k,krq->rq", adapter.left, b)
    right = torch.einsum("k,krq->rq", adapter.right, a) + constant
    assert torch.allclose(adapter.delta(), scale * left @ right.T, atol=1e-10, rtol=1e-10)


def test_nola_llm_moves_its_left_factor_first() -> None:
    site = site_of("tall")
    method = METHODS["nola_llm"].resized(30)
    method = type(method)(**{**vars(method), "rank": 4})
    adapter = method.adapt(site, method.shared([site], 7), torch.Generator().manual_seed(2))
    target = torch.randn(20, 12, generator=torch.Generator().manual_seed(4))
    assert not adapter.delta().any()
    (adapter.delta() - target).square().sum().backward()
    assert adapter.left.grad.abs().min() > 0
    assert not adapter.right.grad.any()
    with torch.no_grad():
        adapter.left -= 1e-3 * adapter.left.grad
    adapter.zero_grad()
    (adapter.delta() - target).square().sum().backward()
    assert adapter.right.grad.abs().min() > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("vera")])
def test_vera(name: str, shape: str) -> None:
    from randlora.bases import random_rows

    site = site_of(shape)
    rank, (rows, columns) = 6, SHAPES[shape]
    adapter = adapter_of(METHODS[name].resized(rank), site)
    b = random_rows(rows, rank, seed=7, purpose="vera left").double()
    a = random_rows(rank, columns, seed=7, purpose="vera right").double()
    if name == "vera":
        b = b / rank
    else:
        b, a = b * math.sqrt(2 / rank), a * math.sqrt(2 / columns)
    scale = 2 if name == "vera_llm" else 1
    expected = scale * torch.diag(adapter.b) @ b @ torch.diag(adapter.d) @ a
    assert torch.allclose(adapter.delta(), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("name", "scale"), [("lora", 1 / 32), ("lora_llm", 2.0), ("rslora", 8.0), ("dora", 2.0)])
def test_scales_at_the_published_ranks(name: str, scale: float) -> None:
    site = Site(name="w", out_features=70, in_features=80)
    assert METHODS[name].adapt(site, None, torch.Generator().manual_seed(1)).scale == pytest.approx(scale, abs=1e-15)
