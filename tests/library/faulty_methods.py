"""LoRA with one fault each, on one site: what an audit must find."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from randlora.adapter import Adapter, Shared, Site, Targets
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import Adaptation
from randlora.methods.lora import LoRA, LoRAAdapter

SITE = "visual.transformer.resblocks.0.mlp.c_fc.weight"


class FaultyAdapter(LoRAAdapter):
    """Does what the fault's name says where ``adapted`` or ``factors`` is asked for."""

    fault = ""

    def adapted(self, weight: Tensor) -> Tensor:
        if self.fault == "writes to the base weight":
            with torch.no_grad():
                weight += 1e-3
        if self.fault == "changes in evaluation" and not self.training:
            with torch.no_grad():
                self.b += 1e-3
        if self.fault == "a weight form of its own":
            return super().adapted(weight) + (self.b @ self.a) / 2
        return super().adapted(weight)

    def factors(self) -> tuple[Tensor, Tensor]:
        left, right = super().factors()
        if self.fault == "wrong gradient":
            left = Doubled.apply(left)
        if self.fault == "full rank":
            return left @ right + torch.tril(left.sum() + torch.ones_like(left @ right)), torch.eye(right.shape[1]).to(
                left
            )
        if self.fault == "too low a rank":
            return left[:, :1], right[:1]
        return left, right


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


@dataclass(frozen=True, kw_only=True)
class Faulty(LoRA):
    fault: str
    site: str = SITE

    def n_trainable(self, site: Site) -> int:
        extra = site.name == self.site and self.fault in ("wrong closed form", "a tensor without gradient")
        return super().n_trainable(site) + (1 if extra else 0)

    def shared(self, sites: Sequence[Site], seed: int) -> Shared | None:
        if self.fault == "moves the global generator":
            torch.rand(3)
        if self.fault in ("bases of its own", "a copy of the bases"):
            return Shared(a=torch.full((self.rank, 200), 0.5))
        return None

    def adapt(self, site: Site, shared: Shared | None, generator: torch.Generator) -> Adapter:
        plain = super().adapt(site, shared, generator)
        adapter = FaultyAdapter(plain.a.detach(), plain.b.detach(), scale=plain.scale)
        if shared is not None:
            adapter.bases = shared
        if site.name != self.site:
            return adapter
        adapter.fault = self.fault
        if self.fault == "start from the global generator":
            adapter.a = nn.Parameter(torch.rand_like(adapter.a))
        elif self.fault == "another start":
            adapter.b = nn.Parameter(torch.full_like(adapter.b, 0.1))
        elif self.fault == "a tensor without gradient":
            adapter.unused = nn.Parameter(torch.ones(1))
        elif self.fault == "saves its basis":
            adapter.register_buffer("basis", torch.ones(7, 3))
        elif self.fault == "counts its basis":
            adapter.basis = nn.Parameter(torch.ones(7, 3), requires_grad=False)
        elif self.fault == "bases of its own":
            assert shared is not None
            adapter.bases = Shared(a=shared.get_buffer("a").clone())
        elif self.fault == "a copy of the bases":
            adapter.register_buffer("copy", torch.full((self.rank, 200), 0.5), persistent=False)
        return adapter

    def apply(
        self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
    ) -> Adaptation:
        adaptation = super().apply(model, targets, seed=seed, execution=execution)
        kinds = {"a merge that leaves something": Leaving, "a merge of half the update": Halving}
        kind = kinds.get(self.fault, Adaptation)
        if self.fault == "trains a norm as well":
            model.get_parameter("visual.ln_pre.weight").requires_grad_(True)
        return kind(**{field.name: getattr(adaptation, field.name) for field in dataclasses.fields(adaptation)})


class Leaving(Adaptation):
    def merge(self) -> nn.Module:
        model = super().merge()
        model.register_buffer("left_behind", torch.zeros(2))
        return model


class Halving(Adaptation):
    def merge(self) -> nn.Module:
        bases = {site.name: self.model.get_submodule(site.name.rpartition(".")[0]) for site in self.sites}
        before = {
            name: owner.get_parameter(f"parametrizations.{name.rpartition('.')[2]}.original").detach().clone()
            for name, owner in bases.items()
        }
        model = super().merge()
        with torch.no_grad():
            for name, value in before.items():
                parameter = model.get_parameter(name)
                parameter.copy_((parameter + value) / 2)
        return model
