"""Sweeps on SLURM: a job array of workers, submitted through submitit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from randlora.checks import check_flag, check_positive, check_whole
from runners.compose import ConfigError
from runners.launchers import Launcher

if TYPE_CHECKING:
    from runners.handout import Handout
    from runners.sweep_progress import SweepProgress
    from runners.worklist import WorkList

ENGINE = "slurm"
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


@dataclass(frozen=True, kw_only=True)
class Slurm(Launcher):
    """Keeps the tasks of a job array at the runs; each is a pool of workers, one per GPU that it has, else one.

    Any number of tasks may run at a time or one after another: they agree by claims in the results folder, which all
    computers share. A task whose time is over, or that is preempted, saves the state of its runs and goes back into the
    queue.

    Attributes:
        workers: tasks of the array.
        cap: how many of them run at a time; None for as many as SLURM lets.
        partition: where; None for the cluster's default, as for all that follow.
        account: who pays.
        qos: quality of service.
        time_min: minutes that a task runs before it goes back into the queue.
        gpus_per_task: GPUs of a task, and so its workers; 0 for one worker on the CPU.
        cpus_per_task: CPU cores of a task; on a CPU, the threads of runs that do not state theirs.
        mem_gb: memory of a task.
        setup: shell commands before Python starts, such as ``module load cuda``.
        signal_delay_s: seconds before the end of its time in which a task stops; longer than a step takes.
        max_requeues: how often a task goes back into the queue because its time was over.
        wait: follow the workers, then print the table; False returns once they are submitted.
        cancel_on_interrupt: Ctrl-C while waiting stops the workers as well.
        extra: other options of sbatch: ``+launcher.extra.constraint=a100``.
    """

    workers: int
    cap: int | None
    partition: str | None
    account: str | None
    qos: str | None
    time_min: int
    gpus_per_task: int
    cpus_per_task: int
    mem_gb: float | None
    setup: Sequence[str]
    signal_delay_s: int
    max_requeues: int
    wait: bool
    cancel_on_interrupt: bool
    extra: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "workers", "time_min", "cpus_per_task", "signal_delay_s")
        check_whole(self, "gpus_per_task", "max_requeues", least=0)
        check_flag(self, "wait", "cancel_on_interrupt")
        if self.cap is not None:
            check_whole(self, "cap")
        if self.mem_gb is not None:
            check_positive(self, "mem_gb")
        if self.signal_delay_s >= 60 * self.time_min:
            raise ValueError(
                f"Slurm.signal_delay_s = {self.signal_delay_s}, but a task runs {self.time_min} minutes; valid: less "
                f"than {60 * self.time_min}"
            )
        if isinstance(self.setup, str) or not all(isinstance(line, str) for line in self.setup):
            raise ValueError(f"Slurm.setup = {self.setup!r}; valid: a list of shell commands")

    @property
    def waits(self) -> bool:
        """Whether :meth:`launch` returns when the runs are done, and not once they are handed over."""
        return self.wait

    def workers_for(self, todo: WorkList) -> int:
        """Return how many tasks have something to do."""
        return min(len(todo.runs), self.workers)

    def launch(self, todo: WorkList, *, show: SweepProgress, stop: Callable[[], bool]) -> None:
        """See :meth:`runners.launchers.Launcher.launch`."""
        _check_commands()
        from runners.follow import follow
        from runners.handout import Handout, open_handouts
        from runners.slurm_queue import Job

        for earlier in open_handouts(todo.results, engine=ENGINE):
            if earlier.job is None or Job(id=earlier.job).alive() == {}:
                earlier.clear()
        handout = Handout.of(todo, engine=ENGINE)
        job = Job(id=self._submit(handout, count=self.workers_for(todo)))
        show.note(f"SLURM job {job.id}; what its tasks print: {handout.folder}")
        goes_on = f"'scancel {job.id}' cancels it, 'squeue --job {job.id}' shows it, and so does randlora status"
        if not self.wait:
            show.note(f"{goes_on}; the same command continues what it leaves")
            return
        cancel = self.cancel_on_interrupt
        if follow(todo, handout=handout, engine=job, show=show, stop=stop, cancel_on_stop=cancel):
            show.note(f"job {job.id} goes on: {goes_on}")

    def _submit(self, handout: Handout, *, count: int) -> str:
        """Submit the tasks and return the number of their job."""
        try:
            import submitit
        except ImportError as error:
            raise ConfigError("launcher=slurm needs submitit: pip install -e '.[slurm]'") from error
        from runners.slurm_task import Task

        executor = submitit.SlurmExecutor(folder=handout.folder, max_num_timeout=self.max_requeues)
        given = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "mem": f"{round(1024 * self.mem_gb)}M" if self.mem_gb is not None else None,
            "gpus_per_node": self.gpus_per_task or None,
        }
        task = Task(handout=handout, cpus=self.cpus_per_task, patience_s=self.signal_delay_s / 2)
        try:
            executor.update_parameters(
                job_name="randlora",
                time=self.time_min,
                nodes=1,
                wckey=None,
                ntasks_per_node=1,
                cpus_per_task=self.cpus_per_task,
                array_parallelism=self.cap or count,
                setup=list(self.setup),
                signal_delay_s=self.signal_delay_s,
                stderr_to_stdout=True,
                # steps of a job do not inherit it
                srun_args=[f"--cpus-per-task={self.cpus_per_task}"],
                additional_parameters={"requeue": True, **self.extra},
                **{name: value for name, value in given.items() if value is not None},
            )
            with executor.batch():
                jobs = [executor.submit(task) for _ in range(count)]
        except RuntimeError as error:  # what submitit raises where sbatch refuses
            handout.clear()
            raise ConfigError(f"SLURM does not take the job: {_last_line(error)}") from error
        return str(jobs[0].job_id).partition("_")[0]


def _check_commands() -> None:
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        raise ConfigError(
            f"launcher=slurm needs SLURM, and {', '.join(absent)} cannot be found; start the sweep on a computer of "
            "the cluster that submits jobs, or take launcher=local"
        )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    refused = [line.partition("error:")[2].strip() for line in lines if "error:" in line]
    return " ".join(refused or lines[-1:])
