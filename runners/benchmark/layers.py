"""Single linear layers as workloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from randlora.adapter import Targets
from randlora.sites import find_sites
from runners.benchmark.cases import Case, Workload, check_whole_list, generator, weigh

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LinearLayers(Workload):
    """Linear layers without bias, each at every number of tokens; gradients flow on to the input.

    Attributes:
        layers: output and input features of each layer.
        tokens: rows of the input.
    """

    layers: Sequence[Sequence[int]]
    tokens: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_list(self, "tokens")
        for layer in self.layers if isinstance(self.layers, (list, tuple)) else (self.layers,):
            if not isinstance(layer, (list, tuple)) or len(layer) != 2 or not all(isinstance(n, int) for n in layer):
                raise ValueError(f"LinearLayers.layers: {layer!r}; valid: pairs [output features, input features]")

    def cases(self) -> Sequence[Case]:
        """Return one case per layer and number of tokens."""
        return tuple(
            LayerCase(
                name=f"{rows} x {columns}, {tokens:,} tokens",
                precision=self.precision,
                layer=(rows, columns),
                tokens=tokens,
            )
            for rows, columns in self.layers
            for tokens in self.tokens
        )


@dataclass(frozen=True, kw_only=True)
class LayerCase(Case):
    """One linear layer at one number of tokens."""

    def build(self, *, device: torch.device, seed: int) -> nn.Module:
        """Return the layer inside a module, so that its weight has a name to adapt."""
        rows, columns = self._layer
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = nn.Sequential(nn.Linear(columns, rows, bias=False))
        return model.to(device=device, dtype=self.dtype)

    def targets(self, model: nn.Module) -> Targets:
        """Return the one weight as site and scope."""
        parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
        return Targets(sites=find_sites(model, ("0.weight",)), parameters=parameters)

    def inputs(self, model: nn.Module, *, device: torch.device, seed: int) -> Mapping[str, Tensor]:
        """Return rows that require a gradient, and the gradient that comes down on the output."""
        rows, columns = self._layer
        assert self.tokens is not None
        source = generator(seed)
        x = torch.randn(self.tokens, columns, generator=source).to(device=device, dtype=self.dtype)
        direction = torch.randn(self.tokens, rows, generator=source).to(device=device, dtype=self.dtype) / self.tokens
        return {"x": x.requires_grad_(), "direction": direction}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the weighed output."""
        return weigh(model(inputs["x"]), inputs["direction"])

    @property
    def _layer(self) -> tuple[int, int]:
        assert self.layer is not None
        return self.layer
