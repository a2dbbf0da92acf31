"""Two processes of one run, started by torchrun: as its command, or as copies of one that has everything loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import ROOT, Outcome
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher import LaunchConfig, elastic_launch

import runners.pool
from runners import cli, trainer

PATIENCE_S = 240.0  # for a machine with much else to do


def by_command(*arguments: str, script: Path | None = None) -> Outcome:
    """Start the command line, or a script in its place, with ``torchrun``."""
    target = ["-m", "runners.cli"] if script is None else [str(script)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *target]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        stop(process.pid)
        raise
    return Outcome(code=process.returncode, out=out, err=err)


def stop(launcher: int) -> None:
    """Kill a launcher and its processes, each of which leads a session of its own."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for process in (*map(int, children), launcher):
        os.kill(process, signal.SIGKILL)


def by_copies(logs: Path, *arguments: str, killed: bool = False) -> Outcome:
    """Let torchrun's agent start them as copies of the fork server, which is one itself.

    Args:
        logs: a folder for what they print.
        arguments: of the command line.
        killed: whether the second process is killed in the second step.
    """
    agent = runners.pool._context().Process(target=_launch, args=(logs, arguments, killed), daemon=False)
    agent.start()
    agent.join(PATIENCE_S)
    if agent.exitcode is None:
        agent.terminate()  # and it its processes
        raise TimeoutError(f"two processes did not end in {PATIENCE_S} s")
    out, err = ("".join(path.read_text() for path in logs.rglob(f"{name}.log")) for name in ("stdout", "stderr"))
    return Outcome(code=agent.exitcode, out=out, err=err)


def _launch(logs: Path, arguments: Sequence[str], killed: bool) -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="copies",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )
    elastic_launch(config, _run)(arguments, killed)


def _run(arguments: Sequence[str], killed: bool) -> None:
    if killed and os.environ["RANK"] == "1":
        _kill_at_second_step()
    raise SystemExit(cli.main(arguments))


def _kill_at_second_step() -> None:
    gradient = trainer.Gradients.of

    def of(self: trainer.Gradients, batch: Any, *, step: int, seed: int) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return gradient(self, batch, step=step, seed=seed)

    trainer.Gradients.of = of  # type: ignore[method-assign]
