"""The one training loop. It knows an objective, parameters and a recipe, and no method, backbone or data set."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from randlora.data.feed import Feed
from randlora.seeds import seed_for
from randlora.tasks.base import Objective
from randlora.training import Training
from runners.checkpoint import Checkpointer
from runners.gradients import Gradients
from runners.interrupt import Interrupted
from runners.optimizers import Optimizers
from runners.processes import ALONE, Processes
from runners.selection import Selection

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

WARMUP_TIMINGS = 3  # first steps allocate and compile; they are timed apart
OnStep = Callable[[int, int, Mapping[str, float]], None]


class DivergenceError(RuntimeError):
    """The training loss is no longer finite."""


@dataclass(kw_only=True)
class TrainingClock:
    """Seconds per step and per wait for data; those of a resumed run include the part before the interruption."""

    steps_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    def add(self, *, step_s: float, wait_s: float) -> None:
        """Add one step and the wait for data before it."""
        self.steps_s.append(step_s)
        self.waits_s.append(wait_s)

    def summary(self) -> dict[str, float | int | None]:
        """Return median and spread of the steps after the first few, and the sums."""
        steady = sorted(self.steps_s[WARMUP_TIMINGS:])
        # inclusive: what lies outside of the steps taken, such as a time below 0, is no time of a step
        deciles = statistics.quantiles(steady, n=10, method="inclusive") if len(steady) > 1 else None
        return {
            "steps": len(self.steps_s),
            "step_median_s": statistics.median(steady) if steady else None,
            "step_p10_s": deciles[0] if deciles else None,
            "step_p90_s": deciles[-1] if deciles else None,
            "data_wait_s": sum(self.waits_s),
            "warmup_s": sum(self.steps_s[:WARMUP_TIMINGS]),
            "train_s": sum(self.steps_s) + sum(self.waits_s),
        }


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What became of a training: its times, and what its record should say of it."""

    clock: TrainingClock
    notes: tuple[str, ...]


def train(
    objective: Objective,
    *,
    backbone: Mapping[str, nn.Parameter],
    recipe: Training,
    feed: Feed,
    accelerator: Accelerator,
    seed: int,
    checkpointer: Checkpointer,
    step_scope: Callable[[], AbstractContextManager[None]] = nullcontext,
    selection: Selection | None = None,
    on_step: OnStep,
    stop: Callable[[], bool],
    processes: Processes = ALONE,
) -> Trained:
    """Train the parameters of backbone and head, resuming from a checkpoint where there is one.

    Everything random in a step is a function of the seed and the step number, so a resumed run computes bit for bit
    what an uninterrupted one does. Several processes share the samples of each batch among them, start from the values
    of the main one, and stop and save together; the main one writes.

    Args:
        objective: gives the loss of a batch.
        backbone: the trained parameters of the backbone, by name.
        recipe: how to train.
        feed: the training samples, on the accelerator's device.
        accelerator: placement, precision and gradient handling.
        seed: seed of the run.
        checkpointer: where state is kept; cleared by the caller once the run is recorded.
        step_scope: surrounds the forward and backward passes of each step.
        selection: looks at the model now and then and has the last word on which step's tensors are kept.
        on_step: called with the completed steps, the total, and loss and learning rate now and then (else an empty
            mapping).
        stop: asked after each step; on True the state is saved and the run ends.
        processes: those that train together.

    Raises:
        DivergenceError: if the loss stops being finite.
        DataError: if a sample cannot be read.
        Interrupted: if ``stop`` said so.
    """
    plan = recipe.plan(len(feed), seed=seed)
    total = recipe.total_steps(plan)
    head = dict(objective.head.named_parameters(prefix="head"))
    parameters = {**backbone, **head}
    optimizers = Optimizers(recipe, backbone=backbone, head=head.values(), total=total)
    # as if for evaluation: without a wrapper that exchanges gradients, see Gradients
    prepared = accelerator.prepare_model(objective, evaluation_mode=True)
    optimizers.all = [accelerator.prepare_optimizer(one) for one in optimizers.all]
    gradients = Gradients(
        objective,
        prepared,
        parameters,
        recipe=recipe,
        accelerator=accelerator,
        scope=step_scope,
        processes=processes,
    )
    clock = TrainingClock()
    start = _resume(checkpointer, parameters, optimizers, clock, selection)
    processes.check_equal({"checkpoint": start})
    processes.start_equal(parameters.values())
    objective.train()
    with closing(feed.batches(plan, start=start, stop=total)) as batches:
        for step in range(start, total):
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            loss = gradients.of(batch, step=step, seed=seed_for(seed, "step", step))
            if recipe.clip_norm is not None:
                accelerator.clip_grad_norm_(parameters.values(), recipe.clip_norm)
            rate = optimizers.learning_rate()
            optimizers.step()
            _synchronise(accelerator.device)
            clock.add(step_s=time.perf_counter() - began - waited, wait_s=waited)
            value = _finite(loss, step=step, total=total)
            due = step % max(1, total // 100) == 0 or step + 1 == total
            on_step(step + 1, total, {"loss": value, "learning_rate": rate} if due else {})
            if selection is not None:
                selection.look(step + 1, total, parameters, processes=processes)
            stopping, saving = processes.any(stop(), checkpointer.due(step + 1))
            if step + 1 < total and (stopping or saving):
                _save(checkpointer, step + 1, parameters, optimizers, clock, selection)
                if stopping:
                    raise Interrupted(
                        f"stopped after step {step + 1} of {total}; the same command continues from there"
                    )
    notes = list(gradients.notes)
    if selection is not None:
        processes.wait()  # for the main one to have written the file
        notes.append(selection.restore(parameters))
    return Trained(clock=clock, notes=tuple(notes))


def _finite(loss: Tensor, *, step: int, total: int) -> float:
    """Return the loss; to read it costs nothing, the step has been waited for."""
    value = float(loss)
    if not math.isfinite(value):
        raise DivergenceError(
            f"the loss is {value} at step {step + 1} of {total}; lower the learning rate or the scale"
        )
    return value


def _resume(
    checkpointer: Checkpointer,
    parameters: Mapping[str, nn.Parameter],
    optimizers: Optimizers,
    clock: TrainingClock,
    selection: Selection | None,
) -> int:
    state = checkpointer.restore(parameters)
    if state is None:
        return 0
    optimizers.load_state_dict(state["optimizers"])
    clock.steps_s[:] = state["steps_s"]
    clock.waits_s[:] = state["waits_s"]
    if selection is not None:
        selection.load_state_dict(state["selection"])
    return int(state["step"])


def _save(
    checkpointer: Checkpointer,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimizers: Optimizers,
    clock: TrainingClock,
    selection: Selection | None,
) -> None:
    extra: dict[str, Any] = {
        "optimizers": optimizers.state_dict(),
        "steps_s": clock.steps_s,
        "waits_s": clock.waits_s,
        "selection": None if selection is None else selection.state_dict(),
    }
    checkpointer.save(step, parameters, extra=extra)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
