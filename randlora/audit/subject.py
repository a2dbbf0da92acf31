"""A live model under audit: one method put into it, run, and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from randlora.adapter import Method, Site, Targets
from randlora.execution import Execution
from randlora.inject import Adaptation, fingerprint, owner_of

# largest difference, relative to the largest value, between two ways to compute one thing
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
STEP = 1e-3  # of signed gradient descent; at least two units in the last place of the largest number of a tensor
VISIBLE = 0.05  # change of the outputs, relative to the largest, at which an update is seen
FAINT, TRIES = 0.02, 8  # first standard deviation of the noise that moves trained numbers, and how often it may grow

Fingerprint = dict[str, tuple[int, int]]
Layout = dict[str, object]


@dataclass(kw_only=True)
class Subject:
    """The model, what is put into it, and how it is run.

    Attributes:
        model: the live model.
        method: the method.
        targets: where it goes.
        probe: runs the model as it is on fixed inputs and returns its outputs.
        seed: of bases and starts.
        execution: how adapters run.
        autocast: precision of training, or None for that of the model.
    """

    model: nn.Module
    method: Method
    targets: Targets
    probe: Callable[[], Tensor]
    seed: int
    execution: Execution
    autocast: torch.dtype | None

    def __post_init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.device = next(self.model.parameters()).device
        # shared parameters under each of their names: a merge may part them
        self.parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.layout = layout_of(self.model)
        self.before = fingerprint(self.tensors())
        self._names = {id(tensor): name for name, tensor in self.tensors()}

    @property
    def tolerance(self) -> float:
        """The tolerance for the least precise of the model's weights."""
        return max(TOLERANCES.get(one.dtype, 0.0) for one in self.parameters.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter and buffer of the model as it is."""
        yield from self.model.named_parameters()
        yield from self.model.named_buffers()

    def grown(self, adaptation: Adaptation) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that the method has added, those included that it keeps outside the model's buffers."""
        everything = dict(self.tensors()) | dict(adaptation.frozen())
        yield from ((name, tensor) for name, tensor in everything.items() if id(tensor) not in self._names)

    def at_start(self, adaptation: Adaptation) -> Fingerprint:
        """Return the fingerprint of the frozen tensors; of the model's own, as they were before the method came."""
        found: Fingerprint = {}
        for name, tensor in adaptation.frozen():
            own = self._names.get(id(tensor))
            found[name] = self.before[own] if own is not None else fingerprint(iter([("", tensor)]))[""]
        return found

    @contextmanager
    def adapted(self) -> Iterator[Adaptation]:
        """Put the method into the model, and take it out at the end of the block."""
        adaptation = self.method.apply(self.model, self.targets, seed=self.seed, execution=self.execution)
        with self.taken_out(adaptation):
            yield adaptation

    @contextmanager
    def taken_out(self, adaptation: Adaptation) -> Iterator[None]:
        """Take adapters out at the end of the block, and give back the weights that :meth:`keep` has kept."""
        try:
            yield
        finally:
            if adaptation.trainable():  # no longer after a merge
                adaptation.remove()
            with torch.no_grad():
                for name, value in self.kept.items():
                    self.parameters[name].copy_(value)

    def keep(self, scope: Mapping[str, nn.Parameter]) -> None:
        """Keep a copy of the model's own weights that a method trains on the CPU."""
        self.kept = {name: parameter.detach().to("cpu", copy=True) for name, parameter in scope.items()}

    def outputs(self, *, train: bool = False) -> Tensor:
        """Return the outputs without gradients; in train mode in the precision of training."""
        self.model.train(train)
        with torch.no_grad():
            return self._run(lowered=train)

    def step(self, adaptation: Adaptation, direction: Tensor, *, number: int) -> None:
        """Take a step of signed gradient descent on ``sum(outputs * direction)`` in train mode.

        The sign is what Adam's first step takes, without its state: no second copy of a model that is trained whole.
        Every step is twice as long as the one before, so that no number comes back to where it was.
        """
        self.model.train()
        parameters = list(adaptation.trainable().values())
        (self._run(lowered=True).float() * direction).sum().backward()
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    unit = float(parameter.abs().max()) * torch.finfo(parameter.dtype).eps
                    parameter.add_(parameter.grad.sign_(), alpha=-max(STEP, 2 * unit) * 2**number)
                    parameter.grad = None

    def stir(self, adaptation: Adaptation, base: Tensor) -> Tensor:
        """Move every trained number at random until the outputs differ visibly from those of the base; return them."""
        start = {name: parameter.detach().clone() for name, parameter in adaptation.trainable().items()}
        visible, strength = max(VISIBLE, 10 * self.tolerance), FAINT
        for _ in range(TRIES):
            generator = torch.Generator().manual_seed(self.seed)
            with torch.no_grad():
                for name, parameter in adaptation.trainable().items():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(start[name] + strength * noise.to(parameter))
            outputs = self.outputs()
            change = difference(outputs, base)
            if change >= visible:
                break
            strength *= min(max(2 * visible / max(change, 1e-30), 2), 10)
        return outputs

    def put_back(self) -> None:
        """Give the model its own parameters again where others stand in their place."""
        for name, parameter in self.parameters.items():
            owner, tensor = owner_of(self.model, name)
            if getattr(owner, tensor) is not parameter:
                setattr(owner, tensor, parameter)

    def _run(self, *, lowered: bool) -> Tensor:
        # layers that draw at random, such as dropout, draw the same at every call
        torch.default_generator.manual_seed(0)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(0)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=lowered and self.autocast is not None):
            return self.probe()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave the model as it was in all but its weights: modes, gradients, buffers, order; and the global generators."""
    modes = {module: module.training for module in model.modules()}
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    orders = {module: list(module._parameters) for module in model.modules()}
    for parameter in model.parameters():
        parameter.grad = None
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            for parameter, trained, gradient in flags:
                parameter.requires_grad_(trained)
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for module, names in orders.items():
                _restore_order(module, names)


def layout_of(model: nn.Module) -> Layout:
    """Return what a model consists of: modules with their types and hooks, tensors with their shapes and types."""
    modules = {
        f"module '{name}'": (type(module), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {**modules, **{f"tensor '{name}'": (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors}}


def representatives(sites: tuple[Site, ...]) -> list[Site]:
    """Return the first site of each kind and shape."""
    first: dict[tuple[object, ...], Site] = {}
    for site in sites:
        first.setdefault((site.out_features, site.in_features, site.transposed, site.linear), site)
    return list(first.values())


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value; infinite where a value is not finite."""
    gap = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30)
    return float(gap) if bool(gap.isfinite()) else float("inf")


def plain_name(name: str) -> str:
    """Return the name that an adapted weight or a part of its adapter has in messages."""
    name = name.replace("parametrizations.", "")
    return name.removesuffix(".original").replace(".0.adapter.", ":")


def _restore_order(module: nn.Module, names: list[str]) -> None:
    # a parameter that was adapted stands last: order decides the order of sums, and so bits, in the run that follows
    if list(module._parameters) == names or set(module._parameters) != set(names):
        return
    for name in names:
        module._parameters[name] = module._parameters.pop(name)
