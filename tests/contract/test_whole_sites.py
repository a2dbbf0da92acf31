"""Contract 7 through the modules that read a site: exact gradients, and no upcast copy of the input under autocast."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from configs import ADAPTER_METHODS
from test_forms import differentiable
from tiny_models import fitted, own_stream, perturb
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from randlora.adapter import AdapterMethod, Targets, TwoFactorMethod
from randlora.inject import Adaptation
from randlora.sites import find_sites

KINDS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "linear": ("reader.weight", lambda: nn.Linear(6, 4)),
    "conv1d": ("reader.weight", lambda: Conv1D(4, 6)),
    "attention": ("reader.in_proj_weight", lambda: nn.MultiheadAttention(6, 2, batch_first=True)),
}


def one_per_class_and_form() -> dict[str, AdapterMethod]:
    """Return one method of every class, a two-factor method in weight form and in activation form."""
    found: dict[str, AdapterMethod] = {}
    for method in ADAPTER_METHODS.values():
        forms = ("weight", "activation") if isinstance(method, TwoFactorMethod) else (None,)
        for form in forms:
            key = type(method).__name__ + (f" {form}" if form else "")
            found.setdefault(key, dataclasses.replace(method, contraction=form) if form else method)
    return found


CASES = [
    (name, kind)
    for name in one_per_class_and_form()
    for kind in KINDS
    if not name.endswith("activation") or kind != "attention"
]


class Reader(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        with own_stream(13):
            self.reader = KINDS[kind][1]()
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.reader, nn.MultiheadAttention):
            return self.reader(x, x, x, need_weights=False)[0]
        return self.reader(x)


def adapted_reader(method: AdapterMethod, kind: str, dtype: torch.dtype) -> Adaptation:
    model = Reader(kind).to(dtype)
    method = fitted(method, 2)
    adaptation = method.apply(model, Targets(sites=find_sites(model, [KINDS[kind][0]])), seed=3)
    perturb(adaptation)
    return adaptation


def test_every_class_of_method_is_here() -> None:
    assert {name.partition(" ")[0] for name, _ in CASES} == {type(m).__name__ for m in ADAPTER_METHODS.values()}
    assert {kind for _, kind in CASES} == set(KINDS)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients_through_the_module_are_exact(name: str, kind: str) -> None:
    adaptation = adapted_reader(differentiable(one_per_class_and_form()[name]), kind, torch.float64)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    trained = tuple(adaptation.trainable().values())
    # gradcheck moves the trained tensors in place, so the module sees each change
    assert torch.autograd.gradcheck(lambda x, *_: adaptation.model(x), (x, *trained))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_autocast_saves_no_upcast_copy_of_the_input(name: str, kind: str, dtype: torch.dtype) -> None:
    adaptation = adapted_reader(one_per_class_and_form()[name], kind, torch.float32)
    x = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(5)).to(dtype).requires_grad_()
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        y = adaptation.model(x)
    y.float().square().sum().backward()
    of_the_input = [tensor for tensor in saved if tensor.numel() == x.numel() and tensor.shape[-1] == x.shape[-1]]
    # weight form needs the input for the gradient of the weight, activation form only beside a trained right factor
    assert of_the_input or name.endswith("activation")
    assert {tensor.dtype for tensor in of_the_input} <= {torch.bfloat16}
    assert all(parameter.grad is not None for parameter in adaptation.trainable().values())
