"""What peft's layers train, counted on stand-ins without the model."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from randlora.adapter import Site
from randlora.peft_types import build_config, load_peft, module_of
from randlora.seeds import generator_for

ADAPTER = "default"  # peft's own name for the only adapter
# how peft says that it cannot do something
REFUSALS = (ValueError, TypeError, NotImplementedError, AttributeError, RuntimeError, ImportError, IndexError)


def trained_numbers(peft_type: str, options: Mapping[str, Any], sites: Sequence[Site]) -> dict[str, int]:
    """Return how many numbers each trained tensor has, by its name in the adapted model, without the model.

    peft adapts stand-ins: of a type that trains each layer by itself one per shape, else one per site; without memory
    for weights where the type allows it.

    Raises:
        ValueError: naming the site, if peft cannot adapt it.
    """
    if not sites:
        raise ValueError(f"peft's {peft_type}: there is no site to adapt; name weights in the backbone's targets")
    modules = {module_of(site): site for site in sites}
    groups: dict[tuple[object, ...], list[str]] = {}
    for module, site in modules.items():
        alone = module if _looks_at_names(peft_type, options) else None
        groups.setdefault((site.out_features, site.in_features, site.transposed, alone), []).append(module)
    chosen = {group[0]: modules[group[0]] for group in groups.values()}
    try:
        found = _numbers(peft_type, options, chosen)
    except REFUSALS as error:
        raise ValueError(_explain(peft_type, options, list(chosen.values()), error)) from error
    numbers: dict[str, int] = {}
    for first, *others in groups.values():
        own = {name: number for name, number in found.items() if name.startswith(f"{first}.")}
        numbers |= own
        for other in others:
            numbers |= {other + name.removeprefix(first): number for name, number in own.items()}
    return numbers


def make_tuner(model: nn.Module, config: Any) -> Any:
    """Return peft's handle to the model, with its layers put in."""
    load_peft()
    tuner_class = importlib.import_module("peft.mapping").PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    with warnings.catch_warnings():
        # said of every layer where linear layers and Conv1D are mixed; peft then does what is right
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        return tuner_class(model, {ADAPTER: config}, ADAPTER)


@contextmanager
def own_stream(seed: int, devices: set[torch.device]) -> Iterator[None]:
    """Draw from the seed in float32 and leave the global generators as they were: peft's starts take no generator."""
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    policy = torch.get_default_dtype()
    with torch.random.fork_rng(devices=cuda), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(policy)


def stand_in(modules: Mapping[str, Site], *, device: str) -> nn.Module:
    """Return a model that holds a layer of each site's kind and shape under its name, with normal weights."""
    conv1d = importlib.import_module("transformers.pytorch_utils").Conv1D
    root = nn.Module()
    for name, site in modules.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        with torch.device("meta"):
            layer = (
                conv1d(site.out_features, site.in_features)
                if site.transposed
                else nn.Linear(site.in_features, site.out_features)
            )
        owner.add_module(last, layer.float())
    if device != "meta":
        root.to_empty(device=device)
        with torch.no_grad():
            for name, parameter in root.named_parameters():
                parameter.normal_(generator=generator_for(0, "stand-in", name))
    return root.requires_grad_(False)


def _numbers(peft_type: str, options: Mapping[str, Any], modules: Mapping[str, Site]) -> dict[str, int]:
    """Return the numbers of the trained tensors of stand-ins."""
    config = build_config(peft_type, options, list(modules), seed=0)
    try:
        model = stand_in(modules, device="meta")
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            make_tuner(model, config)
    except REFUSALS:
        # some look at the weights, or at what they have drawn
        config = build_config(peft_type, options, list(modules), seed=0)
        model = stand_in(modules, device="cpu")
        with own_stream(0, set()):
            make_tuner(model, config)
    return {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _looks_at_names(peft_type: str, options: Mapping[str, Any]) -> bool:
    """Whether layers of one shape may train different numbers, or numbers together."""
    mapping = importlib.import_module("peft.mapping").PEFT_TYPE_TO_TUNER_MAPPING
    return bool(mapping[peft_type].uses_shared_state) or any(name.endswith("_pattern") for name in options)


def _explain(peft_type: str, options: Mapping[str, Any], sites: Sequence[Site], error: Exception) -> str:
    """Return what peft says of the first site that it refuses on its own."""
    for site in sites:
        try:
            _numbers(peft_type, options, {module_of(site): site})
        except REFUSALS as alone:
            kind = "Conv1D" if site.transposed else "Linear"
            return (
                f"peft's {peft_type} cannot adapt site '{site.name}' ({kind}, {site.out_features} x "
                f"{site.in_features}): {alone}"
            )
    return f"peft's {peft_type} cannot adapt these {len(sites)} sites together: {error}"
