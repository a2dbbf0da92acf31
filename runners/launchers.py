"""Where the runs of a sweep are carried out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from randlora.checks import check_positive, check_whole

if TYPE_CHECKING:
    from runners.sweep_progress import SweepProgress
    from runners.worklist import WorkList


class WorkerError(RuntimeError):
    """Workers end before they begin a run; the message shows what they printed."""


@dataclass(frozen=True, kw_only=True)
class Launcher(ABC):
    """Starts workers on a work list.

    Attributes:
        attempts: workers that may die of a run before it counts as failed.
        timeout_s: seconds that a run may take at a time before it counts as failed; None: as long as it wants.
        stale_after_s: a worker on another computer that gives no sign for so long is dead, and its run is taken over.
    """

    attempts: int
    timeout_s: float | None
    stale_after_s: float

    def __post_init__(self) -> None:
        check_whole(self, "attempts")
        check_positive(self, "stale_after_s")
        if self.timeout_s is not None:
            check_positive(self, "timeout_s")

    @property
    def waits(self) -> bool:
        """Whether :meth:`launch` returns when the work has ended, and not once it is handed over."""
        return True

    @abstractmethod
    def workers_for(self, todo: WorkList) -> int:
        """Return how many workers it starts."""

    @abstractmethod
    def launch(self, todo: WorkList, *, show: SweepProgress, stop: Callable[[], bool]) -> None:
        """Work until nothing is left, or ``stop`` says so; what became of the runs, their records tell.

        Raises:
            StoreError: if the disk refuses what is to be written.
            ConfigError: if the launcher cannot be used here.
        """


@dataclass(frozen=True, kw_only=True)
class Inline(Launcher):
    """Carries the runs out one after another in this very process."""

    def workers_for(self, todo: WorkList) -> int:
        """Return 1."""
        return 1

    def launch(self, todo: WorkList, *, show: SweepProgress, stop: Callable[[], bool]) -> None:
        """See :meth:`Launcher.launch`."""
        from runners.work import Worker

        report = partial(show.on_event, "this process")
        Worker(todo, name="this process", own_process=False, stop=stop, report=report).work()


@dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """Keeps persistent worker processes at the runs, on this computer.

    Attributes:
        workers: how many; None: one per GPU, or one on a CPU. Those on a CPU share its cores out.
    """

    workers: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None:
            check_whole(self, "workers")

    def workers_for(self, todo: WorkList) -> int:
        """Return how many workers have something to do."""
        return min(len(todo.runs), self.workers or len(visible_gpus(todo)) or 1)

    def launch(self, todo: WorkList, *, show: SweepProgress, stop: Callable[[], bool]) -> None:
        """See :meth:`Launcher.launch`."""
        from runners.pool import Pool

        count, gpus = self.workers_for(todo), visible_gpus(todo)
        threads = None if gpus or count == 1 else max(1, cores() // count)
        shared_out = tuple(gpus[number % len(gpus)] for number in range(count)) if gpus else ()
        Pool(todo, count=count, threads=threads, gpus=shared_out, show=show, stop=stop).run()


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(todo: WorkList) -> tuple[str, ...]:
    """Return the GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; none where they run on the CPU."""
    import torch

    if not any(run.machine.torch_device().type == "cuda" for run in todo.runs):
        return ()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(named or map(str, range(torch.cuda.device_count())))
