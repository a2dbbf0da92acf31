"""A step cut at the borders of the model's transformer blocks, and taken from two shallow models to a deep one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from runners.planning.tracker import StepTracker


class Sections:
    """Tells a tracker which section of a step has begun, while it is open.

    A section is the pass of one block in one micro-batch, forward or backward, together with what follows it; before
    the first block and after the backward pass there are two more. A block that is run again in the backward pass is
    part of its backward pass.
    """

    def __init__(self, model: nn.Module, tracker: StepTracker) -> None:
        self._blocks = blocks_of(model)
        self._tracker = tracker
        self._part = 0
        self._forward = True
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for number, block in enumerate(self._blocks):
            self._handles.append(block.register_forward_pre_hook(self._entering(number)))
            self._handles.append(block.register_forward_hook(self._leaving(number)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def on_phase(self, phase: str) -> None:
        """Hear what :meth:`runners.planning.step.RunStep.take` says."""
        if phase == "forward":
            self._forward = False
        elif phase == "part":
            self._part, self._forward = self._part + 1, True
            self._tracker.begin((self._part, "start", None))
        else:
            self._tracker.begin("end")

    def _entering(self, number: int) -> Callable[..., None]:
        def hook(block: nn.Module, inputs: Any) -> None:
            if self._forward:
                self._tracker.begin((self._part, "forward", number))

        return hook

    def _leaving(self, number: int) -> Callable[..., None]:
        def on_gradient(gradient: Tensor) -> None:
            self._tracker.begin((self._part, "backward", number))

        def hook(block: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if self._forward and isinstance(first, Tensor) and first.requires_grad:
                first.register_hook(on_gradient)

        return hook


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the members of the longest list of modules in a model: its transformer blocks; empty where it has none."""
    stacks = [one for one in model.modules() if isinstance(one, nn.ModuleList)]
    return list(max(stacks, key=len, default=[]))


def deeper_peak(shallow: Mapping[Hashable, int], deeper: Mapping[Hashable, int], *, least: int, depth: int) -> int:
    """Return the most bytes alive in a step of a model of ``depth`` like blocks, from steps of two shallow ones.

    In every section the bytes are a sum of so much for each block before and each block behind, so at one place counted
    from either end they are linear in the depth, and along the blocks between they are largest at an end.

    Args:
        shallow: by section, of a model of ``least`` blocks.
        deeper: the same with a block more.
        least: 3 or more, so that a block between the first and the last is among them.
        depth: number of blocks.
    """
    lines = [(shallow[own], high) for section, high in deeper.items() for own in _twins(section, least)]
    return max(low + (high - low) * (depth - least) for low, high in lines)


def _twins(section: Hashable, least: int) -> list[Hashable]:
    """Return the sections of the shallower model at the same place, counted from either end, as one of the deeper."""
    if not isinstance(section, tuple) or section[2] is None:
        return [section]
    part, phase, number = section
    places = ([number] if number <= least - 2 else []) + ([number - 1] if number >= 2 else [])
    return [(part, phase, place) for place in places]
