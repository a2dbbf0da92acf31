"""A model of a few hundred weights with every kind of site: Linear (tall, wide, square), Conv1D, fused attention."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from randlora.adapter import Method, Targets, UpdateAdapter
from randlora.inject import Adaptation, owner_of
from randlora.methods.peft_bridge import Peft
from randlora.sites import find_sites

LINEAR_SITES = ("tall.weight", "wide.weight", "square.weight", "conv.weight", "back.weight")
SITES = (*LINEAR_SITES, "attention.in_proj_weight")
DENSE = 2.5  # sparsity of ternary bases that leaves no row or column of a few entries empty
LOUDEST = 60.0  # numerator of a scale at which a model this small still trains
SIZE = 3  # divides 12, the short side of most sites, and not 8, that of the first


class Tiny(nn.Module):
    """Maps (n, tokens, 8) to (n, tokens, 4)."""

    def __init__(self, *, larger: bool = False) -> None:
        super().__init__()
        with own_stream(11):
            self.tall = nn.Linear(8, 20)
            self.wide = nn.Linear(20, 12)
            self.attention = nn.MultiheadAttention(12, 2, batch_first=True)  # even: torch has a fast path in eval
            self.norm = nn.LayerNorm(12)
            self.conv = Conv1D(18, 12)
            self.back = Conv1D(12, 18)
            self.square = nn.Linear(12, 12)
            self.top = nn.Linear(12, 4)
            for name, parameter in self.named_parameters():
                if parameter.ndim == 1:
                    nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
                else:
                    nn.init.normal_(
                        parameter, std=parameter.shape[0 if name.startswith(("conv", "back")) else 1] ** -0.5
                    )
        if larger:
            self.huge = nn.Linear(30, 40)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(torch.tanh(self.tall(x)))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.back(torch.tanh(self.conv(self.norm(x))))
        return self.top(torch.tanh(self.square(x)))


def targets_of(model: nn.Module, patterns: Iterable[str] = SITES) -> Targets:
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Targets(sites=find_sites(model, tuple(patterns)), parameters=parameters)


def suited(method: Method, targets: Targets) -> Targets:
    """Return the targets with the sites a method can adapt: layers of peft cannot take fused attention."""
    if isinstance(method, Peft):
        return dataclasses.replace(targets, sites=tuple(site for site in targets.sites if site.linear))
    return targets


def fitted(method: Method, size: int = SIZE) -> Method:
    """Return the method at a size that fits every site, with bases dense enough to leave something on each."""
    if "rank" in vars(method) and method.size_field not in ("rank", None):
        method = dataclasses.replace(method, rank=min(method.rank, SIZE))
    if vars(method).get("alpha", 0) > LOUDEST:
        method = dataclasses.replace(method, alpha=LOUDEST)
    if vars(method).get("sparsity", 0) > DENSE:
        method = dataclasses.replace(method, sparsity=DENSE)
    return method if method.size_field is None else method.resized(size)


def adapt(
    method: Method,
    *,
    seed: int = 5,
    dtype: torch.dtype = torch.float32,
    patterns: Iterable[str] = SITES,
    size: int = SIZE,
    larger: bool = False,
) -> Adaptation:
    """Return a tiny model adapted by a method, in evaluation mode."""
    model = Tiny(larger=larger).to(dtype).eval()
    return fitted(method, size).apply(model, suited(method, targets_of(model, patterns)), seed=seed)


def perturb(adaptation: Adaptation, *, std: float = 0.3, seed: int = 3) -> None:
    """Move every trainable number of a method with adapters away from its start, so that no update is zero."""
    generator = torch.Generator().manual_seed(seed)
    strength = std if adaptation.method.adds_parameters else std / 10
    with torch.no_grad():
        for parameter in adaptation.trainable().values():
            parameter += strength * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)


def changes(adaptation: Adaptation) -> dict[str, Tensor]:
    """Return per site what its adapter changes in the weight, as out x in, free of rounding where it is an update."""
    found = {}
    with torch.no_grad():
        for site in adaptation.sites:
            owner, tensor = owner_of(adaptation.model, site.name)
            base = owner.parametrizations[tensor].original
            base = base.T if site.transposed else base
            adapter = adaptation.adapters[site.name]
            found[site.name] = adapter.delta() if isinstance(adapter, UpdateAdapter) else adapter.adapted(base) - base
    return found


def inputs(*, tokens: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, tokens, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def train(adaptation: Adaptation, *, steps: int, learning_rate: float = 1e-2) -> list[float]:
    """Take AdamW steps without weight decay towards fixed random outputs and return the losses."""
    parameters = list(adaptation.trainable().values())
    if not parameters:
        return []
    dtype = next(adaptation.model.parameters()).dtype
    x = inputs(dtype=dtype)
    goal = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(8))
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = (adaptation.model(x).float() - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@contextlib.contextmanager
def own_stream(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
