"""A job of SLURM as its queue shows it. Whether runs are done, records tell, and never the state of a job."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from runners.follow import Engine

ANSWER_WITHIN_S = 60.0
FORMAT = "%i|%T|%r"


@dataclass(frozen=True, kw_only=True)
class Job(Engine):
    """A job, or all tasks of a job array, by the number that sbatch gave it."""

    id: str

    def alive(self) -> Mapping[str, str] | None:
        """Return the state of every task that runs or waits, with the reason of waiting; None: no answer."""
        command = ["squeue", "--noheader", "--array", f"--format={FORMAT}", f"--jobs={self.id}"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_WITHIN_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if answer.returncode != 0:
            # what it says of a job that ended a while ago
            return {} if "Invalid job id" in answer.stderr else None
        rows = (line.strip().split("|") for line in answer.stdout.splitlines() if line.strip())
        return {task: _state(state, reason) for task, state, reason in rows}

    def withdraw(self) -> None:
        """Cancel the tasks that wait for their turn."""
        self._cancel("--state=PENDING")

    def end(self) -> None:
        """Cancel all tasks."""
        self._cancel()

    def _cancel(self, *options: str) -> None:
        try:
            subprocess.run(
                ["scancel", "--quiet", *options, self.id], capture_output=True, timeout=ANSWER_WITHIN_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return  # whoever waits for the job sees that it is still there


def _state(state: str, reason: str) -> str:
    waits = state == "PENDING" and reason not in ("None", "")
    return f"{state.lower()} ({reason})" if waits else state.lower()
