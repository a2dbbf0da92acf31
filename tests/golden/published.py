"""Translating published bases and trained tensors into ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from randlora.adapter import Adapter, AdapterMethod, Shared, Site
from randlora.inject import Adaptation, inject
from randlora.methods.lora import LoRA
from randlora.methods.nola import NoLA
from randlora.methods.randlora import RandLoRA
from randlora.methods.vera import VeRA

TOLERANCE = 1e-10
FOLDER = Path(__file__).parent


def case_names(file: str) -> list[str]:
    with np.load(FOLDER / file) as arrays:
        return sorted({key.partition("/")[0] for key in arrays.files})


class Fields(dict[str, Tensor]):
    """The stored fields of one case, which remember whether a test has read them."""

    def __init__(self, fields: dict[str, Tensor]) -> None:
        super().__init__(fields)
        self.unread = set(fields)

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return super().__getitem__(name)


def read(file: str, case: str) -> Fields:
    with np.load(FOLDER / file) as arrays:
        return Fields(
            {
                key.removeprefix(f"{case}/"): torch.from_numpy(arrays[key])
                for key in arrays.files
                if key.startswith(f"{case}/")
            }
        )


def method_for(case: str, *, scale: float, contraction: str, rank: int, bases: int = 1) -> AdapterMethod:
    """Return the method of a case, its scale given as such."""
    common = {"contraction": contraction, "alpha": scale, "scale_rule": "constant", "rank": rank}
    match case.partition("_")[0]:
        case "randlora":
            # peft's rule where it differs from the vision code's would show as a wrong number of diagonals
            rule = "floor_plus_one" if "_" in case else "ceil"
            extra = {
                "basis_count": rule,
                "bases": None,
                "composition": "sum_of_products",
                "stacking": "basis_major",
                "zero_diagonal": "gamma",
                "distribution": "uniform",
                "sparsity": 6.0,
            }
            return RandLoRA(**common, **extra)
        case "lora":
            return LoRA(**common)
        case "vera":
            return VeRA(**common, d_initial=0.1, basis_scale="unit", distribution="uniform")
        case "nola":
            extra = {"start": "mean", "basis_scale": "unit", "keep_bases": True, "distribution": "uniform"}
            return NoLA(**common, bases=bases, **extra)
    raise AssertionError(case)


def inject_with(
    model: nn.Module,
    method: AdapterMethod,
    sites: list[Site],
    *,
    bases: dict[str, Tensor],
    trained: dict[str, dict[str, Tensor]],
) -> Adaptation:
    """Inject a method, then put published numbers in the place of its own bases and starts."""
    adaptation = inject(model, method=method, sites=sites, seed=0)
    for site in sites:
        adapter = adaptation.adapters[site.name]
        put_bases(adapter, bases)
        with torch.no_grad():
            own = dict(adapter.named_parameters())
            assert own.keys() == trained[site.name].keys()
            for name, tensor in trained[site.name].items():
                assert own[name].shape == tensor.shape
                own[name].copy_(tensor)
    return adaptation


def put_bases(adapter: Adapter, bases: dict[str, Tensor]) -> None:
    for module in adapter.modules():
        if isinstance(module, Shared):
            assert dict(module.named_buffers()).keys() == bases.keys()
            for name, tensor in bases.items():
                setattr(module, name, tensor)


def paired(b: Tensor, n: int) -> Tensor:
    """Return B (bases, rows, rank) as our rows x n r: place i r + k gets what is published at k n + i."""
    rank = b.shape[2]
    published = b[:n].permute(1, 0, 2).flatten(1)
    order = [k * n + i for i in range(n) for k in range(rank)]
    return published[:, order].contiguous()


def nola_rows(stack: Tensor) -> Tensor:
    """Return (bases, rows, rank) as our rows x (rank bases)."""
    return stack.permute(1, 2, 0).flatten(1).contiguous()


def assert_close(ours: Tensor | None, published: Tensor, what: str) -> None:
    assert ours is not None, f"{what} has no gradient"
    assert ours.shape == published.shape, what
    assert ours.dtype == torch.float64
    difference = float((ours.detach() - published.detach()).abs().max())
    assert difference < TOLERANCE, f"{what} differs by {difference:.1e}"
