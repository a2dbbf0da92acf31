"""Our adapters in peft's names, shapes and order."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import singledispatch
from typing import Any, cast

from torch import Tensor, nn

from randlora.adapter import Method, Site
from randlora.inject import Adaptation
from randlora.methods.dora import DoRA, DoRAAdapter
from randlora.methods.lora import LoRA, LoRAAdapter
from randlora.methods.peft_bridge import Peft
from randlora.methods.randlora import RandLoRA
from randlora.methods.randlora_adapter import RandLoRAAdapter
from randlora.methods.vera import VeRA, VeRAAdapter
from randlora.peft_errors import PeftFormatError
from randlora.peft_inject import PeftAdaptation
from randlora.peft_layers import ADAPTER
from randlora.peft_types import load_peft, module_of, target_pattern

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class PeftFiles:
    """The content of peft's two files."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def to_peft(adaptation: Adaptation) -> PeftFiles:
    """Return what peft's files have to hold; errors as of :func:`randlora.peft_format.export_to_peft`."""
    if adaptation.method.adds_parameters and not adaptation.sites:
        raise PeftFormatError("the model holds no adapters any more; export before merging")
    if not isinstance(adaptation, PeftAdaptation):
        for site in adaptation.sites:
            _module(site)
    return _translated(adaptation.method, adaptation)


@singledispatch
def _translated(method: Method, adaptation: Adaptation) -> PeftFiles:
    raise PeftFormatError(
        f"peft has no form of {type(method).__name__}; LoRA, DoRA, VeRA, RandLoRA and Peft can be exported. Merge it "
        "instead: merged weights need neither"
    )


@_translated.register
def _lora(method: LoRA, adaptation: Adaptation) -> PeftFiles:
    tensors: dict[str, Tensor] = {}
    for site in adaptation.sites:
        adapter = cast(LoRAAdapter, adaptation.adapters[site.name])
        tensors |= {f"{_module(site)}.lora_A.weight": adapter.a, f"{_module(site)}.lora_B.weight": adapter.b}
    return _files(adaptation, "LORA", tensors, **_lora_options(method))


@_translated.register
def _dora(method: DoRA, adaptation: Adaptation) -> PeftFiles:
    tensors: dict[str, Tensor] = {}
    for site in adaptation.sites:
        adapter = cast(DoRAAdapter, adaptation.adapters[site.name])
        tensors |= {
            f"{_module(site)}.lora_A.weight": adapter.a,
            f"{_module(site)}.lora_B.weight": adapter.b,
            f"{_module(site)}.lora_magnitude_vector": adapter.magnitude,
        }
    return _files(adaptation, "LORA", tensors, use_dora=True, **_lora_options(method))


@_translated.register
def _vera(method: VeRA, adaptation: Adaptation) -> PeftFiles:
    tensors: dict[str, Tensor] = {}
    for site in adaptation.sites:
        adapter = cast(VeRAAdapter, adaptation.adapters[site.name])
        tensors |= {
            f"{_module(site)}.vera_lambda_b": adapter.b,
            f"{_module(site)}.vera_lambda_d": adapter.d * adapter.scale,
        }
    rows, columns = _largest(adaptation.sites)
    tensors |= {
        "base_model.vera_A": adapter.bases.slice("right", method.rank, columns),
        "base_model.vera_B": adapter.bases.slice("left", rows, method.rank),
    }
    options = {"r": method.rank, "d_initial": method.d_initial, "vera_dropout": 0.0, "save_projection": True}
    return _files(adaptation, "VERA", tensors, **options)


@_translated.register
def _randlora(method: RandLoRA, adaptation: Adaptation) -> PeftFiles:
    if method.composition != "sum_of_products":
        raise PeftFormatError("peft has no form of RandLoRA with composition 'product_of_sums'")
    rank, counts = method.rank, {site.name: method.n_bases(site) for site in adaptation.sites}
    for site in adaptation.sites:
        if counts[site.name] != -(-site.short // rank):
            raise PeftFormatError(
                f"site '{site.name}' has {counts[site.name]} bases of rank {rank}, where peft always has "
                f"{-(-site.short // rank)}; train with method=randlora_peft or method.basis_count=ceil to export it"
            )
    adapters = {site: cast(RandLoRAAdapter, adaptation.adapters[site.name]) for site in adaptation.sites}
    scales = {adapter.scale for adapter in adapters.values()}
    uniform = len(scales) == 1
    tensors: dict[str, Tensor] = {}
    for site, adapter in adapters.items():
        lambdas = adapter.lambdas if uniform else adapter.lambdas * adapter.scale
        tensors |= {f"{_module(site)}.randlora_lambda": lambdas.T, f"{_module(site)}.randlora_gamma": adapter.gammas}
    first = adaptation.sites[0]
    short, long = _randlora_bases(method, adapters)
    tensors |= {f"{_module(first)}.randlora_A": short, f"{_module(first)}.randlora_B": long}
    exact = method.scale_rule == "over_rank"
    alpha = rank if not uniform else method.alpha if exact else scales.pop() * rank
    return _files(
        adaptation, "RANDLORA", tensors, r=rank, randlora_alpha=alpha, randlora_dropout=0.0, save_projection=True
    )


@_translated.register
def _bridge(method: Peft, adaptation: Adaptation) -> PeftFiles:
    assert isinstance(adaptation, PeftAdaptation)
    load_peft()
    outer = nn.Module()  # names begin as in peft's own files
    outer.base_model = adaptation.tuner
    outer.peft_config = adaptation.tuner.peft_config
    collect = importlib.import_module("peft.utils").get_peft_model_state_dict
    tensors = collect(outer, adapter_name=ADAPTER, save_embedding_layers=False)
    config = {**adaptation.tuner.peft_config[ADAPTER].to_dict(), "inference_mode": True}
    return PeftFiles(
        config={name: _plain(value) for name, value in config.items()},
        tensors={name: tensor.detach().clone() for name, tensor in tensors.items()},
    )


def _randlora_bases(method: RandLoRA, adapters: Mapping[Site, RandLoRAAdapter]) -> tuple[Tensor, Tensor]:
    """Return peft's ``A`` (r, 1, side) and ``B`` (side, bases, r), zero where no site looks.

    peft pairs column ``p = i r + k`` of B with row ``k' n + j = p`` of the scaled A: our ``rank_major``. The columns of
    ``basis_major`` have to change places, in an order that depends on n.
    """
    rank, sites = method.rank, list(adapters)
    counts = {method.n_bases(site) for site in sites}
    shared = next(iter(adapters.values())).bases
    most, side, length = max(counts), min(_largest(sites)), max(_largest(sites))
    short_side = max(site.short for site in sites)
    long = shared.slice("long", length, most * rank)
    if method.stacking == "basis_major":
        if len(counts) > 1:
            few = min(sites, key=method.n_bases)
            many = max(sites, key=method.n_bases)
            raise PeftFormatError(
                f"site '{few.name}' has {min(counts)} bases and '{many.name}' {max(counts)}; peft pairs factors in "
                "another order, and one set of bases cannot serve both; train with method=randlora_peft or "
                "method.stacking=rank_major to export it"
            )
        long = long.unflatten(1, (most, rank)).transpose(1, 2).flatten(1)
    a = long.new_zeros(rank, 1, side)
    a[:, 0, :short_side] = shared.slice("short", rank, short_side)
    b = long.new_zeros(length, -(-side // rank) * rank)
    b[:, : most * rank] = long
    return a, b.unflatten(1, (-1, rank))


def _lora_options(method: LoRA | DoRA) -> dict[str, Any]:
    stable = method.scale_rule == "over_sqrt_rank"
    alpha = method.alpha if stable or method.scale_rule == "over_rank" else method.alpha * method.rank
    return {"r": method.rank, "lora_alpha": alpha, "use_rslora": stable, "lora_dropout": 0.0, "init_lora_weights": True}


def _files(adaptation: Adaptation, peft_type: str, tensors: Mapping[str, Tensor], **options: Any) -> PeftFiles:
    modules = [_module(site) for site in adaptation.sites]
    others = {name for name, _ in adaptation.model.named_modules()} - set(modules)
    # peft takes a plain name for the end of longer names as well
    ambiguous = any(other.endswith(f".{module}") for module in modules for other in others)
    config = {
        "peft_type": peft_type,
        "target_modules": target_pattern(modules) if ambiguous else modules,
        "fan_in_fan_out": all(site.transposed for site in adaptation.sites),
        "bias": "none",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        **{
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in options.items()
        },
    }
    named = {name if name.startswith("base_model.") else PREFIX + name: tensor for name, tensor in tensors.items()}
    return PeftFiles(config=config, tensors=named)


def _module(site: Site) -> str:
    try:
        return module_of(site)
    except ValueError as error:
        raise PeftFormatError(str(error)) from error


def _largest(sites: Sequence[Site]) -> tuple[int, int]:
    """Return the largest output and the largest input, each over all sites: what peft makes its bases for."""
    return max(site.out_features for site in sites), max(site.in_features for site in sites)


def _plain(value: Any) -> Any:
    """Return a value of peft's configuration as JSON can hold it."""
    if isinstance(value, Enum):
        return value.value
    return sorted(value) if isinstance(value, set) else value
