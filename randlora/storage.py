"""Saved adapters: the trained numbers and what is needed to grow everything else again."""

from __future__ import annotations

import base64
import importlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from randlora.adapter import AdapterMethod, Method, Site, Targets
from randlora.imported_bases import imported_bases, put_bases
from randlora.inject import Adaptation
from randlora.methods.peft_bridge import Peft
from randlora.packed import is_packed, sides_of
from randlora.peft_inject import PeftAdaptation

FORMAT = "randlora-adapter-1"
METADATA = "adapter"
METHOD_ROOM = "randlora.methods."
# bounds on what a file holds beside its numbers and its description, for predicting sizes
HEADER = 64  # length field, padding, the description's own key
TENSOR_HEADER = 112  # name, dtype, shape and offsets of one tensor
MOST_TENSORS = 4  # trained tensors of one adapter


class StorageError(ValueError):
    """A saved adapter is unreadable or belongs to another model."""


def save_adapter(path: Path, adaptation: Adaptation, *, head: Mapping[str, Tensor] | None = None) -> int:
    """Write trained tensors and head to a safetensors file, atomically, and return its size in bytes.

    Bases are left out: they grow from the seed, all but imported ones. Tensors of the same name on different sites are
    stored as one, in site order, so the header stays small on any model. Equal numbers give equal bytes.

    Raises:
        StorageError: if the adapters are merged: their numbers are in the weights then and no longer apart.
    """
    from safetensors.torch import save

    if adaptation.method.adds_parameters and not adaptation.sites:
        raise StorageError(f"{path}: the model holds no adapters any more; save before merging")

    groups: dict[str, Mapping[str, Tensor]] = {
        "head": head or {},
        "scope": adaptation.scope,
        "bases": imported_bases(adaptation),
        "trained": adaptation.trained if isinstance(adaptation, PeftAdaptation) else {},
    }
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    for name in _tensor_names(adaptation):
        parts = [
            adaptation.adapters[site.name].get_parameter(name).detach().cpu().flatten() for site in adaptation.sites
        ]
        tensors[f"adapter/{name}"] = torch.cat(parts)
    regrown = adaptation.regrown_digest() if isinstance(adaptation, PeftAdaptation) else None
    description = _description(adaptation.method, adaptation.sites, seed=adaptation.seed, regrown=regrown)
    # one entry: safetensors writes several in an order that differs from call to call
    blob = save(tensors, {METADATA: description})
    write_atomically(path, blob)
    return len(blob)


def saved_bytes(method: Method, targets: Targets) -> int:
    """Return the size of the file that :func:`save_adapter` writes for a float32 model without a head, in bytes.

    The numbers are counted exactly. What a header adds is rounded up, so that the file is never larger, and smaller by
    less than 1 KiB, for full fine-tuning by less than 64 bytes per tensor.
    """
    return 4 * method.count(targets) + overhead_bytes(method, targets)


def overhead_bytes(method: Method, targets: Targets) -> int:
    """Return what :func:`saved_bytes` counts beside the trained numbers."""
    if isinstance(method, AdapterMethod):
        sites, tensors = targets.sites, [TENSOR_HEADER] * MOST_TENSORS
    elif isinstance(method, Peft):
        sites, tensors = targets.sites, [TENSOR_HEADER + len(name) for name in method.tensor_names(targets)]
    else:
        scope = targets.parameters if method.trains_backbone else {}
        sites, tensors = (), [TENSOR_HEADER + len(name) for name in scope]
    regrown = "0" * 64 if isinstance(method, Peft) else None
    return len(json.dumps({METADATA: _description(method, sites, seed=2**63, regrown=regrown)})) + sum(tensors) + HEADER


def load_adapter(path: Path, model: nn.Module) -> tuple[Adaptation, dict[str, Tensor]]:
    """Inject a saved adapter into a model with its base weights loaded; return the adaptation and the head's tensors.

    Raises:
        StorageError: if the file is no adapter, is truncated, names a weight that the model lacks or has in another
            shape, or frozen numbers that peft grows have come out otherwise here.
    """
    tensors, description = _read(path)
    method = method_from_config(description["method"])
    packed = json.loads(zlib.decompress(base64.b64decode(description["sites"])))
    sites = tuple(
        Site(name=name, out_features=rows, in_features=columns, transposed=transposed, linear=linear)
        for name, rows, columns, transposed, linear in packed
    )
    scope = _group(tensors, "scope")
    _check_weights(path, model, sites=sites, scope=scope)
    targets = Targets(sites=sites, parameters={name: tensor.numel() for name, tensor in scope.items()})
    adaptation = method.apply(model, targets, seed=description["seed"])
    if bases := _group(tensors, "bases"):
        put_bases(adaptation, bases)
    trained = _group(tensors, "trained")
    if isinstance(adaptation, PeftAdaptation) and (
        problem := adaptation.misfit(trained, regrown=description.get("regrown"))
    ):
        adaptation.remove()
        raise StorageError(f"{path}: {problem}")
    with torch.no_grad():
        for name, tensor in scope.items():
            adaptation.scope[name].copy_(tensor)
        for name, tensor in trained.items():
            adaptation.trainable()[name].copy_(tensor)
        for name in _tensor_names(adaptation):
            _unpack(path, adaptation, name, tensors[f"adapter/{name}"])
    return adaptation, _group(tensors, "head")


def method_from_config(config: Mapping[str, Any]) -> Method:
    """Return the method that ``Method.to_config`` described; only classes of ``randlora.methods`` are looked up.

    Raises:
        StorageError: for any other class, or fields this version's class does not have or refuses.
    """
    target = str(config.get("_target_"))
    module, _, name = target.rpartition(".")
    if not module.startswith(METHOD_ROOM):
        raise StorageError(f"method '{target}' is not one of {METHOD_ROOM}*")
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise StorageError(f"'{target}' is no fine-tuning method of this version: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise StorageError(f"'{target}' is no fine-tuning method of this version")
    try:
        return cls(**{key: value for key, value in config.items() if key != "_target_"})
    except (TypeError, ValueError) as error:
        raise StorageError(f"'{target}' of this version does not take the saved fields: {error}") from error


def write_atomically(path: Path, blob: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Raises:
        OSError: if it cannot be written; the old content is intact and nothing else is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _description(method: Method, sites: Sequence[Site], *, seed: int, regrown: str | None) -> str:
    packed = json.dumps([[s.name, s.out_features, s.in_features, s.transposed, s.linear] for s in sites])
    description = {
        "format": FORMAT,
        "method": method.to_config(),
        "seed": seed,
        "sites": base64.b64encode(zlib.compress(packed.encode(), 9)).decode(),
    }
    return json.dumps(description if regrown is None else {**description, "regrown": regrown})


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{group}/"): one for name, one in tensors.items() if name.startswith(f"{group}/")}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path} cannot be read as a saved adapter: {error}") from error
    description = json.loads(metadata.get(METADATA, "{}"))
    if description.get("format") != FORMAT:
        raise StorageError(
            f"{path} is not a saved adapter of this version: format {description.get('format')!r}, need {FORMAT!r}"
        )
    return tensors, description


def _tensor_names(adaptation: Adaptation) -> list[str]:
    if not isinstance(adaptation.method, AdapterMethod) or not adaptation.adapters:
        return []
    first = next(iter(adaptation.adapters.values()))
    return [name for name, _ in first.named_parameters()]


def _unpack(path: Path, adaptation: Adaptation, name: str, packed: Tensor) -> None:
    parameters = [adaptation.adapters[site.name].get_parameter(name) for site in adaptation.sites]
    expected = sum(parameter.numel() for parameter in parameters)
    if packed.numel() != expected:
        raise StorageError(f"{path}: '{name}' holds {packed.numel():,} numbers, the model's sites need {expected:,}")
    start = 0
    for parameter in parameters:
        parameter.copy_(packed[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def _check_weights(path: Path, model: nn.Module, *, sites: tuple[Site, ...], scope: Mapping[str, Tensor]) -> None:
    has = {name: list(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and is_packed(module, module.weight):
            has[f"{name}.weight"] = list(sides_of(module))
    need = {name: ("parameter", list(tensor.shape)) for name, tensor in scope.items()}
    for site in sites:
        shape = [site.out_features, site.in_features]
        need[site.name] = ("site", shape[::-1] if site.transposed else shape)
    for name, (kind, shape) in need.items():
        if name not in has or has[name] != shape:
            found = f"has it as {has[name]}" if name in has else "has no such weight"
            raise StorageError(f"{path} was saved for {kind} '{name}' of shape {shape}; this model {found}")
