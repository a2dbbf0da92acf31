"""Sweeps on a Ray cluster, or on this computer through Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from randlora.checks import check_whole
from runners.compose import ConfigError
from runners.follow import Engine
from runners.handout import Handout, work_on
from runners.launchers import Launcher

if TYPE_CHECKING:
    from runners.sweep_progress import SweepProgress
    from runners.worklist import WorkList

ENGINE = "ray"


@dataclass(frozen=True, kw_only=True)
class Ray(Launcher):
    """Keeps tasks of Ray at the runs; each is a pool of workers, one per GPU that it has, else one.

    All computers share the results folder and have the suite. The tasks end with the sweep: Ctrl-C stops them.

    Attributes:
        workers: tasks.
        address: of the cluster, ``auto`` for the one that this computer belongs to; None starts Ray on this computer.
        gpus_per_worker: GPUs of a task; 0 for one worker on the CPU.
        cpus_per_worker: CPU cores of a task; on a CPU, the threads of runs that do not state theirs.
    """

    workers: int
    address: str | None
    gpus_per_worker: int
    cpus_per_worker: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "workers", "cpus_per_worker")
        check_whole(self, "gpus_per_worker", least=0)

    def workers_for(self, todo: WorkList) -> int:
        """Return how many tasks have something to do."""
        return min(len(todo.runs), self.workers)

    def launch(self, todo: WorkList, *, show: SweepProgress, stop: Callable[[], bool]) -> None:
        """See :meth:`runners.launchers.Launcher.launch`."""
        # Ray counts its users unless it is told not to
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigError("launcher=ray needs Ray: pip install -e '.[ray]'") from error
        from runners.follow import follow

        try:
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"launcher.address={self.address}: no Ray answers there: {error}") from error
        try:
            handout = Handout.of(todo, engine=ENGINE)
            task = ray.remote(num_cpus=self.cpus_per_worker, num_gpus=self.gpus_per_worker, max_retries=self.attempts)
            numbers = range(1, self.workers_for(todo) + 1)
            references = {
                number: task(_task).remote(handout, number=number, cpus=self.cpus_per_worker) for number in numbers
            }
            show.note(f"{len(references)} tasks of Ray; what they print: {handout.folder}")
            engine = Tasks(references, handout=handout)
            follow(todo, handout=handout, engine=engine, show=show, stop=stop, cancel_on_stop=True)
        finally:
            ray.shutdown()


class Tasks(Engine):
    """The tasks of a sweep, by number."""

    def __init__(self, references: Mapping[int, Any], *, handout: Handout) -> None:
        self.references = dict(references)
        self.handout = handout

    def alive(self) -> Mapping[str, str] | None:
        """Return which tasks run or wait; one runs once it has printed something."""
        import ray

        references = list(self.references.values())
        _, going = ray.wait(references, num_returns=len(references), timeout=0)
        return {
            str(number): "running" if log_of(self.handout, number).exists() else "pending"
            for number, reference in self.references.items()
            if reference in going
        }

    def withdraw(self) -> None:
        """Cancel the tasks that wait for their turn."""
        states = self.alive() or {}
        self._cancel([number for number in self.references if states.get(str(number)) == "pending"], force=False)

    def end(self) -> None:
        """Cancel all tasks."""
        self._cancel(list(self.references), force=True)

    def _cancel(self, numbers: Sequence[int], *, force: bool) -> None:
        import ray

        for number in numbers:
            ray.cancel(self.references[number], force=force)


def log_of(handout: Handout, number: int) -> Path:
    """Return where a task prints."""
    return handout.folder / f"{number}.log"


def _task(handout: Handout, *, number: int, cpus: int) -> int:
    """Work until nothing is left or the word to stop comes; return how many runs are left."""
    from runners.run_log import output_to

    with output_to(log_of(handout, number)):
        return work_on(handout, name=f"ray {number}", cpus=cpus, stop=lambda: False)
