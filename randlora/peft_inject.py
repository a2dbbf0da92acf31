"""Putting peft's layers into a model and taking them out again."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from randlora.adapted_weight import AdaptedWeight
from randlora.adapter import Method, Site
from randlora.inject import Adaptation, fingerprint, freeze, owner_of
from randlora.peft_layers import ADAPTER, REFUSALS, make_tuner, own_stream, trained_numbers
from randlora.peft_types import build_config, module_of
from randlora.seeds import seed_for


@dataclass(kw_only=True)
class PeftAdaptation(Adaptation):
    """A model whose sites are adapted by layers of peft.

    Attributes:
        tuner: peft's own handle to the model.
        trained: the trained parameters by their name in the model.
    """

    tuner: Any
    trained: Mapping[str, nn.Parameter]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by their name in the model."""
        return dict(self.trained)

    def drop_inputs(self, probability: float) -> None:
        """Raise ValueError for a dropout: layers of peft have options of their own for it."""
        if probability > 0:
            raise ValueError(
                f"recipe.dropout={probability} does not reach layers of peft; set recipe.dropout=0 and the option of "
                "the type, such as method.options={lora_dropout: 0.05}"
            )

    def frozen(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each tensor that must not change, those included that peft keeps outside the model's buffers."""
        yield from super().frozen()
        yield from self._aside()

    def regrown(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the frozen tensors that peft's layers have added: what is not saved and has to grow again."""
        for name, layer in self._layers():
            for key, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
                if not key.startswith("base_layer.") and not tensor.requires_grad:
                    yield f"{name}.{key}", tensor
        yield from self._aside()

    def regrown_digest(self) -> str:
        """Return a digest of the frozen tensors that have to grow again."""
        return hashlib.sha256(json.dumps(fingerprint(self.regrown()), sort_keys=True).encode()).hexdigest()

    def misfit(self, trained: Mapping[str, Tensor], *, regrown: object) -> str | None:
        """Return why saved numbers do not belong to these layers, or None.

        Args:
            trained: the saved numbers by name.
            regrown: the digest at the time of saving.
        """
        shapes = {name: list(parameter.shape) for name, parameter in self.trained.items()}
        for name in sorted(shapes.keys() | trained.keys()):
            saved = list(trained[name].shape) if name in trained else None
            if saved != shapes.get(name):
                return f"'{name}' is {saved or 'not'} in the file and {shapes.get(name) or 'not'} in peft's layers"
        if regrown != self.regrown_digest():
            return (
                "the frozen numbers that peft grows from the seed and the base weights are not those of the training; "
                "other base weights, another version of peft or another kind of device can be why"
            )
        return None

    def merge(self) -> nn.Module:
        """Write what peft's layers do into new weights, take the layers out, and return the model."""
        with torch.no_grad():
            for name, layer in self._layers():
                base = layer.get_base_layer()
                training = base.training
                for key, parameter in list(base.named_parameters(recurse=False)):
                    # new parameters: peft writes in place, and the old ones may be tied or kept by someone
                    setattr(base, key, nn.Parameter(parameter.detach().clone(), requires_grad=False))
                layer.eval()
                layer.merge()
                base.train(training)
                for key, parameter in list(base.named_parameters(recurse=False)):
                    setattr(base, key, nn.Parameter(parameter.detach().contiguous(), requires_grad=False))
                _put(self.model, name, base)
        return self._finish()

    def remove(self) -> nn.Module:
        """Take peft's layers out, leave the base weights as they were, and return the model; it stays frozen."""
        for name, layer in self._layers():
            _put(self.model, name, layer.get_base_layer())
        return self._finish()

    def _weights(self) -> Iterator[AdaptedWeight]:
        return iter(())  # peft's layers have no execution choices

    def _aside(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what peft keeps as plain attributes of its layers, such as lists of indices, or in its handle alone."""
        for name, layer in self._layers():
            yield from _loose_tensors(name, layer)
        if self.tuner is not None:
            inside = {id(tensor) for tensor in [*self.model.parameters(), *self.model.buffers()]}
            for name, buffer in self.tuner.named_buffers():
                if id(buffer) not in inside:
                    yield f"peft:{name}", buffer

    def _layers(self) -> list[tuple[str, Any]]:
        return [(module_of(site), self.model.get_submodule(module_of(site))) for site in self.sites]

    def _finish(self) -> nn.Module:
        del self.model.peft_config
        self.sites, self.trained, self.tuner = (), {}, None
        return self.model


def inject_peft(
    model: nn.Module, *, method: Method, peft_type: str, options: Mapping[str, Any], sites: Sequence[Site], seed: int
) -> PeftAdaptation:
    """Freeze the model and let peft adapt the sites, whatever it draws at random drawn from the seed.

    Raises:
        ValueError: if there is no site; naming the site, if peft cannot adapt it, its weight is not floating point or
            has no values yet, or it is adapted already.
    """
    _check(model, sites)
    trained_numbers(peft_type, options, sites)  # refuses before the model is touched
    config = build_config(peft_type, options, [module_of(site) for site in sites], seed=seed)
    before = fingerprint(_weights(model, sites))
    freeze(model)
    devices = {owner_of(model, site.name)[0].get_parameter("weight").device for site in sites}
    modules = {module_of(site): model.get_submodule(module_of(site)) for site in sites}
    try:
        with own_stream(seed_for(seed, "start"), devices):
            tuner = make_tuner(model, config)
            tuner._cast_adapter_dtype(ADAPTER)  # as peft does: adapters of half-precision models train in float32
    except REFUSALS as error:
        for name, module in modules.items():
            _put(model, name, module)
        raise ValueError(f"peft's {peft_type} cannot adapt this model: {error}") from error
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    adaptation = PeftAdaptation(
        model=model,
        method=method,
        seed=seed,
        sites=tuple(sites),
        adapters={},
        scope={},
        tuner=tuner,
        trained=trained,
    )
    for _, layer in adaptation._layers():
        layer.train(layer.get_base_layer().training)  # peft makes its layers in train mode
    # by the layers: peft has renamed the weights
    after = fingerprint((site.name, layer.get_base_layer().weight) for site, (_, layer) in _zip(adaptation))
    if changed := [name for name in before if before[name] != after[name]]:
        raise ValueError(
            f"{peft_type} with these options has rewritten the base weight of '{changed[0]}'; the base must stay as it "
            "is, so choose another start, and load the model again"
        )
    return adaptation


def _check(model: nn.Module, sites: Sequence[Site]) -> None:
    layer_class = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    for site in sites:
        owner = model.get_submodule(module_of(site))
        if isinstance(owner, layer_class) or parametrize.is_parametrized(owner):
            raise ValueError(f"site '{site.name}' has an adapter already; merge it before injecting another")
        weight = owner.get_parameter("weight")
        if not weight.dtype.is_floating_point:
            raise ValueError(f"site '{site.name}' holds {weight.dtype}; an adapter needs a floating-point weight")
        if weight.is_meta:
            raise ValueError(f"site '{site.name}' has no values yet (meta device); load the weights before injecting")


def _weights(model: nn.Module, sites: Sequence[Site]) -> Iterator[tuple[str, Tensor]]:
    return ((site.name, model.get_parameter(site.name)) for site in sites)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _zip(adaptation: PeftAdaptation) -> Iterator[tuple[Site, tuple[str, Any]]]:
    return zip(adaptation.sites, adaptation._layers(), strict=True)


def _loose_tensors(name: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a layer keeps as plain attributes or in plain dictionaries, such as index lists."""
    for attribute, value in vars(layer).items():
        if attribute.startswith("_"):
            continue
        if isinstance(value, Tensor):
            yield f"{name}.{attribute}", value
        elif isinstance(value, dict):
            yield from ((f"{name}.{attribute}.{key}", one) for key, one in value.items() if isinstance(one, Tensor))
