"""How an adapter runs changes what is kept in memory and no number."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from configs import ADAPTER_METHODS
from tiny_models import SITES, Tiny, fitted, inputs, perturb, targets_of
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from randlora.adapted_weight import AdaptedWeight
from randlora.adapter import TwoFactorMethod, UpdateAdapter
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import Adaptation
from randlora.methods.randlora import RandLoRA

REBUILD = Execution(adapted_weights="rebuild")
COMPACT = Execution(bases="compact")
TERNARY = [n for n, m in ADAPTER_METHODS.items() if isinstance(m, RandLoRA) and m.distribution == "ternary"]
# compilation takes seconds: one method of each way to compute an update; bases drawn on the host have no graph
WAYS = {
    (type(m), getattr(m, "composition", None), getattr(m, "stacking", None)): name
    for name, m in ADAPTER_METHODS.items()
    if getattr(m, "keep_bases", True)
}
PRECISIONS = {"float32": None, "bfloat16 autocast": torch.bfloat16}


def weight_form(name: str) -> object:
    method = fitted(ADAPTER_METHODS[name])
    return dataclasses.replace(method, contraction="weight") if isinstance(method, TwoFactorMethod) else method


def adapted(name: str, execution: Execution) -> Adaptation:
    model = Tiny().train()
    adaptation = weight_form(name).apply(model, targets_of(model), seed=5, execution=execution)
    perturb(adaptation)
    return adaptation


def gradients(adaptation: Adaptation, *, lower: torch.dtype | None = None, through: str = "plain") -> dict[str, Tensor]:
    x = inputs().requires_grad_()
    with torch.autocast("cpu", dtype=lower or torch.bfloat16, enabled=lower is not None):
        y = checkpoint(adaptation.model, x, use_reentrant=False) if through == "checkpoint" else adaptation.model(x)
    y.float().square().mean().backward()
    return {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in adaptation.trainable().items()}}


def assert_bitwise(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Tensor]]]:
    """Weak references to every adapted weight that is formed."""
    references: list[weakref.ref[Tensor]] = []
    original = AdaptedWeight._form

    def kept(self: AdaptedWeight, weight: Tensor) -> Tensor:
        result = original(self, weight)
        references.append(weakref.ref(result.untyped_storage()))
        return result

    monkeypatch.setattr(AdaptedWeight, "_form", kept)
    return references


def alive(references: list[weakref.ref[Tensor]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("through", ["plain", "checkpoint"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_rebuilt_weights_give_bitwise_the_same(name: str, precision: str, through: str) -> None:
    lower = PRECISIONS[precision]
    kept, rebuilt = (
        gradients(adapted(name, execution), lower=lower, through=through) for execution in (DEFAULT_EXECUTION, REBUILD)
    )
    assert_bitwise(kept, rebuilt)


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_no_adapted_weight_lives_between_forward_and_backward_when_rebuilt(
    name: str, formed: list[weakref.ref[Tensor]]
) -> None:
    counts = {}
    for execution in (DEFAULT_EXECUTION, REBUILD):
        formed.clear()
        adaptation = adapted(name, execution)
        y = adaptation.model(inputs().requires_grad_())
        assert len(formed) == len(SITES)
        counts[execution.adapted_weights] = alive(formed)
        y.sum().backward()
    assert counts == {"keep": len(SITES), "rebuild": 0}
    # once in the forward pass, once for its backward pass
    assert len(formed) == 2 * len(SITES)


def test_numbers_changed_before_the_backward_pass_are_noticed() -> None:
    adaptation = adapted("lora", REBUILD)
    y = adaptation.model(inputs())
    perturb(adaptation)
    with pytest.raises(RuntimeError, match=r"adapter of '.*' was changed between forward and backward pass"):
        y.sum().backward()


def test_a_failed_forward_leaves_no_hook_behind() -> None:
    adaptation = adapted("lora", REBUILD)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        adaptation.model.wide(inputs())
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert_bitwise(gradients(adaptation), gradients(adapted("lora", DEFAULT_EXECUTION)))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("contraction", ["weight", "activation", "auto"])
@pytest.mark.parametrize("name", TERNARY)
def test_compact_bases_give_bitwise_the_same(name: str, contraction: str, precision: str) -> None:
    method = dataclasses.replace(fitted(ADAPTER_METHODS[name]), contraction=contraction)
    results = []
    for execution in (DEFAULT_EXECUTION, COMPACT):
        model = Tiny().train()
        patterns = [site for site in SITES if contraction != "activation" or "attention" not in site]
        adaptation = method.apply(model, targets_of(model, patterns), seed=5, execution=execution)
        perturb(adaptation)
        results.append(gradients(adaptation, lower=PRECISIONS[precision]))
    assert_bitwise(*results)


@pytest.mark.parametrize("name", TERNARY)
def test_compact_bases_take_a_quarter_and_no_expanded_copy_is_kept(name: str) -> None:
    sizes, expanded = {}, {}
    for execution in (DEFAULT_EXECUTION, COMPACT):
        adaptation = adapted(name, execution)
        adapter = next(iter(adaptation.adapters.values()))
        bases = adapter.bases
        sizes[execution.bases] = sum(buffer.nbytes for buffer in bases.buffers() if buffer.ndim == 2)
        assert {buffer.dtype for buffer in bases.buffers() if buffer.ndim == 2} == {
            torch.int8 if execution.bases == "compact" else torch.float32
        }
        y = adaptation.model(inputs())
        width = bases.get_buffer("long").shape[1]
        saved = [tensor for tensor in saved_by(y) if tensor.ndim == 2 and tensor.dtype == torch.float32]
        addresses = {buffer.untyped_storage().data_ptr() for buffer in bases.buffers()}
        expanded[execution.bases] = [
            tensor.shape
            for tensor in saved
            if width in tensor.shape and tensor.untyped_storage().data_ptr() not in addresses and is_ternary(tensor)
        ]
    assert sizes["compact"] * 4 == sizes["full"]
    assert expanded == {"full": [], "compact": []}


def is_ternary(tensor: Tensor) -> bool:
    return len(tensor.detach().abs().unique()) <= 2


def saved_by(y: Tensor) -> Iterator[Tensor]:
    """Yield what the graph holds as tensors, without unpacking what is packed."""
    todo, seen = [y.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_raw_saved_"):
                raw = getattr(node, name)
                for one in raw if isinstance(raw, (tuple, list)) else [raw]:
                    data = getattr(one, "data", None)
                    if isinstance(data, Tensor):
                        yield data
        todo += [following for following, _ in node.next_functions]


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_bases_that_have_no_compact_form_stay_as_they_are(distribution: str) -> None:
    method = dataclasses.replace(fitted(ADAPTER_METHODS["randlora"]), distribution=distribution)
    model = Tiny()
    adaptation = method.apply(model, targets_of(model), seed=5, execution=COMPACT)
    bases = next(iter(adaptation.adapters.values())).bases
    assert {buffer.dtype for buffer in bases.buffers()} == {torch.float32}


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_under_autocast_frozen_bases_are_cast_once_per_model(name: str) -> None:
    adaptation = adapted(name, DEFAULT_EXECUTION)
    shared = {id(m): m for a in adaptation.adapters.values() for m in a.modules() if hasattr(m, "lowered")}
    assert len(shared) <= 1
    for module in shared.values():
        with torch.autocast("cpu", torch.bfloat16):
            adaptation.model(inputs())
            copies = dict(module._lowered)
            adaptation.model(inputs())
        assert module._lowered.keys() == copies.keys()
        assert all(module._lowered[key] is copy for key, copy in copies.items())
        adaptation.model.double()
        assert not module._lowered


@pytest.mark.parametrize("kept", ["keep", "rebuild"])
@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_accumulating_forms_each_weight_once_and_gives_the_gradient_of_the_sum(
    name: str, kept: str, formed: list[weakref.ref[Tensor]]
) -> None:
    execution = Execution(accumulate=True, adapted_weights=kept)
    parts = inputs(tokens=6).split(1)
    expected, found = adapted(name, DEFAULT_EXECUTION), adapted(name, execution)
    for part in parts:
        expected.model(part).square().sum().backward()
    formed.clear()
    with found.accumulating():
        for part in parts:
            found.model(part).square().sum().backward()
        assert len(formed) == len(SITES)
        assert all(parameter.grad is None for parameter in found.trainable().values())
    for key, parameter in expected.trainable().items():
        other = found.trainable()[key].grad
        assert (other - parameter.grad).abs().max() <= 1e-5 * parameter.grad.abs().max().clamp(min=1.0), key
    # the next step starts afresh
    perturb(found)
    perturb(expected)
    with torch.no_grad():
        assert torch.equal(found.model(parts[0]), expected.model(parts[0]))


def test_accumulating_without_the_choice_does_nothing(formed: list[weakref.ref[Tensor]]) -> None:
    adaptation = adapted("randlora", DEFAULT_EXECUTION)
    with adaptation.accumulating():
        for part in inputs().split(1):
            adaptation.model(part).sum().backward()
    assert len(formed) == 3 * len(SITES)


@pytest.mark.parametrize("name", WAYS.values())
def test_compiles_without_a_graph_break(name: str) -> None:
    # few tokens: the linear sites run on activations, attention in weight form
    model = Tiny().train()
    adaptation = fitted(ADAPTER_METHODS[name]).apply(model, targets_of(model), seed=5, execution=REBUILD)
    perturb(adaptation)
    expected = gradients(adaptation)
    for parameter in adaptation.trainable().values():
        parameter.grad = None
    torch._dynamo.reset()
    compiled = dataclasses.replace(adaptation, model=torch.compile(model, backend="aot_eager", fullgraph=True))
    found = gradients(compiled)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-6), key


def test_a_weight_read_outside_of_a_forward_is_whole() -> None:
    adaptation = adapted("lora", REBUILD)
    adapter = adaptation.adapters["tall.weight"]
    assert isinstance(adapter, UpdateAdapter)
    weight = adaptation.model.tall.weight
    base = adaptation.model.tall.parametrizations.weight.original
    assert torch.allclose(weight - base, adapter.delta(), atol=1e-6)
    weight.sum().backward()
    assert adapter.a.grad is not None


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("adapted_weights", "drop", "'keep', 'rebuild'"),
        ("bases", "int8", "'full', 'compact'"),
        ("accumulate", 1, "true"),
    ],
)
def test_wrong_choices_are_refused(field: str, value: object, valid: str) -> None:
    with pytest.raises(ValueError, match=rf"Execution.{field} = {value!r}; valid: {valid}"):
        Execution(**{field: value})
