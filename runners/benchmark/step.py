"""One training step of one subject: forward, loss, backward, AdamW, gradients cleared; nothing is clipped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from randlora.adapter import Site
from randlora.inject import Adaptation, owner_of
from runners.benchmark.cases import Case
from runners.benchmark.subjects import Subject

if TYPE_CHECKING:
    from torch import Tensor

RATE = 1e-5  # small: the same few inputs are seen over and over
OnPhase = Callable[[str], None]


class TrainingStep:
    """A subject on a case, ready to take steps.

    The frozen weights are the tensors of ``base``; what the subject trains is its own. Where nothing is trained and the
    input needs no gradient, a gradient is asked at the input of the first adapted weight, so that the backward pass
    runs through the same layers as that of an adapter: the floor of the step.

    Raises:
        ValueError: if the method does not fit the sites.
    """

    def __init__(
        self, case: Case, base: nn.Module, subject: Subject, *, inputs: Mapping[str, Tensor], seed: int
    ) -> None:
        self.case = case
        self.subject = subject
        self.device = next(iter(inputs.values())).device
        model = with_shared_weights(base)
        targets = case.targets(model)
        self.sites = targets.sites
        self.adaptation: Adaptation = subject.method.apply(model, targets, seed=seed, execution=subject.execution)
        self.model = self.adaptation.model.train()
        self.trained = tuple(self.adaptation.trainable().values())
        _own(self.trained, base)
        self.inputs = _leaves(inputs)
        if not self.trained:
            _ask_gradients(self.model, self.sites)
        self.optimizer = torch.optim.AdamW(self.trained, lr=RATE) if self.trained else None
        self._loss = partial(case.loss, self.model)
        self._run = torch.compile(self._loss) if subject.compile else self._loss

    def __call__(self) -> None:
        """Take one step and wait for it."""
        self.take()

    def take(self, on_phase: OnPhase | None = None, *, eager: bool = False) -> None:
        """Take one step, saying after ``forward`` (of each micro-batch) and ``backward`` that it is over."""
        run = self._loss if eager else self._run
        with self.adaptation.accumulating():
            for part in self._parts():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                    loss = run(part)
                self._say("forward", on_phase)
                loss.backward()
                del loss
        self._say("backward", on_phase)
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        for value in self.inputs.values():
            value.grad = None
        self._synchronise()

    def optimizer_bytes(self) -> int:
        """Return the bytes of the optimizer's state."""
        if self.optimizer is None:
            return 0
        tensors = [value for state in self.optimizer.state.values() for value in state.values()]
        return storage_bytes(value for value in tensors if isinstance(value, torch.Tensor))

    @property
    def _autocast(self) -> bool:
        return self.case.precision == "bfloat16_autocast"

    def _parts(self) -> list[dict[str, Tensor]]:
        if self.subject.micro_batches == 1:
            return [dict(self.inputs)]
        split = {name: value.chunk(self.subject.micro_batches) for name, value in self.inputs.items()}
        return [dict(zip(split, values, strict=True)) for values in zip(*split.values(), strict=True)]

    def _say(self, phase: str, on_phase: OnPhase | None) -> None:
        if on_phase is not None:
            self._synchronise()
            on_phase(phase)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def with_shared_weights(base: nn.Module) -> nn.Module:
    """Return a copy of a model whose parameters are new objects over the same memory."""
    memo: dict[int, Any] = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in base.parameters()}
    return copy.deepcopy(base, memo)


def storage_bytes(tensors: Any) -> int:
    """Return the bytes of the distinct storages under tensors."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def reader_of(model: nn.Module, site: Site) -> nn.Module:
    """Return the module that is called with the rows a site's weight is applied to."""
    owner, _ = owner_of(model, site.name)
    if site.linear or isinstance(owner, nn.MultiheadAttention):
        return owner
    return model.get_submodule(site.name.rpartition(".")[0].rpartition(".")[0])


def _own(trained: tuple[nn.Parameter, ...], base: nn.Module) -> None:
    """Give trained weights of the backbone memory of their own."""
    shared = {one.untyped_storage().data_ptr() for one in base.parameters()}
    for parameter in trained:
        if parameter.untyped_storage().data_ptr() in shared:
            parameter.data = parameter.data.clone()


def _leaves(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().requires_grad_(value.requires_grad) for name, value in inputs.items()}


def _ask_gradients(model: nn.Module, sites: tuple[Site, ...]) -> None:
    def ask(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs[0].requires_grad:
            inputs[0].requires_grad_()

    for reader in {id(one): one for one in (reader_of(model, site) for site in sites)}.values():
        reader.register_forward_pre_hook(ask)
