"""What one task of a job array does, and how it goes back into the queue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from runners.handout import Handout, work_on

Requeue = Callable[[int, Any], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Works on a work list until nothing is left, its time is over, or it is told to stop.

    submitit calls it in the job, having set up its own answer to the signal that announces the end of the time: to
    write down :meth:`checkpoint` and put the job back into the queue. That answer is given here once the workers have
    stopped at the end of a step, saved their state and given their runs back.

    Attributes:
        handout: the work list.
        cpus: CPU cores of the task.
        patience_s: seconds that the workers get to stop before the job goes back into the queue all the same.
    """

    handout: Handout
    cpus: int
    patience_s: float

    def __call__(self) -> int:
        """Work, and return how many runs are left; where the task goes back into the queue, end the process."""
        import submitit

        number = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        notice = Notice(number, requeue=signal.getsignal(number), patience_s=self.patience_s)
        if self.handout.stopped:
            return 0
        name = f"job {submitit.JobEnvironment().job_id}"
        left = work_on(self.handout, name=name, cpus=self.cpus, stop=lambda: notice.given)
        print(f"{name}: {notice.text}; runs left: {left}", flush=True)
        notice.answer(left)
        return left

    def checkpoint(self) -> Any:
        """Return what submitit is to run when the job starts again: the same, since all state is with the runs."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Notice:
    """The word to stop, as SLURM gives it.

    Args:
        number: the signal that says that the time is nearly over, or that the job makes way for another one: the job
            goes back into the queue. SIGTERM says that whoever sent it sees to that, if it is to be.
        requeue: what puts the job back; it is called as the handler of ``number``.
        patience_s: seconds after the signal in which :meth:`answer` is called; if not, the job goes back anyhow.
    """

    def __init__(self, number: int, *, requeue: Any, patience_s: float) -> None:
        self.given = False
        self._number = number
        self._requeue: Requeue = requeue
        self._time_over = False
        self._once = threading.Lock()
        self._timer = threading.Timer(patience_s, self._put_back)
        self._timer.daemon = True
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(number, self._stop)

    @property
    def text(self) -> str:
        """What was said, in words."""
        if self._time_over:
            return "its time is over"
        return "told to stop" if self.given else "ended"

    def answer(self, left: int) -> None:
        """Put the job back where its time was over and runs are ``left``; then this does not return."""
        self._timer.cancel()
        if self._time_over and left:
            self._put_back()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.given = True
        if number == self._number and not self._time_over:
            self._time_over = True
            self._timer.start()

    def _put_back(self) -> None:
        if self._once.acquire(blocking=False):  # and never released: the process is about to end
            self._requeue(self._number, None)
