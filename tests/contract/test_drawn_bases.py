"""NoLA's bases kept or drawn anew: the same bits, and nothing of them in memory between forward and backward pass."""

from __future__ import annotations

import dataclasses
import gc

import pytest
import torch
from configs import ADAPTER_METHODS
from tiny_models import Tiny, adapt, inputs, perturb, targets_of, train
from torch import Tensor

from randlora.inject import Adaptation
from randlora.methods import nola
from randlora.methods.nola import Combination, NoLA, NoLABases

NOLA = {name: method for name, method in ADAPTER_METHODS.items() if isinstance(method, NoLA)}


def pair(name: str, *, dtype: torch.dtype = torch.float32, size: int = 50) -> tuple[Adaptation, Adaptation]:
    """Return a method's adaptation with its bases kept and one with them drawn for each use."""
    kept, drawn = (
        adapt(dataclasses.replace(NOLA[name], keep_bases=keep), dtype=dtype, size=size) for keep in (True, False)
    )
    return kept, drawn


def step(adaptation: Adaptation, dtype: torch.dtype) -> dict[str, Tensor]:
    perturb(adaptation)
    x = inputs(dtype=dtype).requires_grad_()
    y = adaptation.model(x)
    y.float().square().sum().backward()
    return {"y": y, "x": x.grad, **{name: parameter.grad for name, parameter in adaptation.trainable().items()}}


@pytest.mark.parametrize("chunk", [nola.CHUNK, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NOLA)
def test_kept_and_drawn_bases_give_the_same_bits(
    name: str, dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nola, "CHUNK", chunk)
    kept, drawn = (step(adaptation, dtype) for adaptation in pair(name, dtype=dtype))
    assert kept.keys() == drawn.keys()
    assert all(torch.equal(kept[key], drawn[key]) for key in kept)


@pytest.mark.parametrize("name", NOLA)
def test_training_under_autocast_gives_the_same_losses(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        kept, drawn = (train(adaptation, steps=5) for adaptation in pair(name))
    assert kept == drawn
    assert kept[-1] < kept[0]


@pytest.mark.parametrize("name", NOLA)
def test_chunks_change_only_the_order_of_a_sum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = step(pair(name, dtype=torch.float64)[0], torch.float64)
    monkeypatch.setattr(nola, "CHUNK", 16)
    parts = step(pair(name, dtype=torch.float64)[0], torch.float64)
    for key, value in whole.items():
        assert (parts[key] - value).abs().max() <= 1e-12 * max(1.0, float(value.detach().abs().max()))


@pytest.mark.parametrize("keep", [True, False])
def test_gradients_of_a_combination_are_exact(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nola, "CHUNK", 16)
    method = dataclasses.replace(NOLA["nola"], keep_bases=keep, bases=5, rank=2)
    bases = method.shared(targets_of(Tiny()).sites, 4).double()
    coefficients = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert Combination.apply(coefficients, bases, "left", 20).shape == (20, 2)
    assert torch.autograd.gradcheck(lambda c: Combination.apply(c, bases, "left", 20), coefficients)


def large_tensors(least: int) -> set[tuple[int, tuple[int, ...]]]:
    """Where large tensors lie, and their shapes."""
    gc.collect()
    found = (thing for thing in gc.get_objects() if issubclass(type(thing), Tensor))
    large = (tensor for tensor in found if tensor.untyped_storage().nbytes() // tensor.itemsize >= least)
    return {(tensor.data_ptr(), tuple(tensor.shape)) for tensor in large}


@pytest.mark.parametrize("name", {method.start: name for name, method in NOLA.items()}.values())
def test_drawn_bases_are_gone_between_forward_and_backward(name: str) -> None:
    size = 3000
    least = 12 * size  # the smallest stack of any site has more numbers
    others = large_tensors(least)  # what other tests keep
    kept, drawn = pair(name, size=size)
    assert any(isinstance(module, NoLABases) for module in drawn.model.modules())
    assert large_tensors(least) - others, "a kept stack must be found, or the search finds nothing"
    del kept
    assert not large_tensors(least) - others
    saved: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        assert tensor.untyped_storage().nbytes() // tensor.itemsize < least, tensor.shape
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = drawn.model(inputs()).square().sum()
    assert (size,) in saved
    assert not large_tensors(least) - others
    loss.backward()
    assert not large_tensors(least) - others
    assert all(parameter.grad is not None for parameter in drawn.trainable().values())


@pytest.mark.parametrize("name", NOLA)
def test_drawn_bases_take_no_memory_beside_the_frozen_part(name: str) -> None:
    kept, drawn = pair(name)
    numbers = [sum(buffer.numel() for buffer in adaptation.model.buffers()) for adaptation in (kept, drawn)]
    rank, longest_out, longest_in = kept.method.rank, 36, 20
    assert numbers[1] == (rank * longest_in if kept.method.start == "frozen_a" else 0)
    assert numbers[0] - numbers[1] == 50 * rank * (longest_out + longest_in)


def test_drawing_is_no_graph_break() -> None:
    method = dataclasses.replace(NOLA["nola_llm"], keep_bases=False)
    adaptation = adapt(method)
    perturb(adaptation)
    expected = adaptation.model(inputs())
    torch._dynamo.reset()
    compiled = torch.compile(adaptation.model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(inputs()), expected)
