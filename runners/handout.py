"""A work list on its way to workers on other computers: a folder inside the results folder, which all of them share."""

from __future__ import annotations

import contextlib
import pickle
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from results.files import StoreError, write_atomically

if TYPE_CHECKING:
    from runners.worklist import WorkList

TODO = "todo.pkl"
STOP = "stop"
SCRIPT = "_submission.sh"  # after the number of the job, as submitit calls what it gives to SLURM


@dataclass(frozen=True, kw_only=True)
class Handout:
    """The folder of one submission: the work list, what its workers print, and the word to stop."""

    folder: Path

    @classmethod
    def of(cls, todo: WorkList, *, engine: str) -> Handout:
        """Write a work list down in a new folder below ``<results>/.<engine>``; StoreError where the disk refuses."""
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        handout = cls(folder=todo.results / f".{engine}" / name)

        def write(temporary: Path) -> None:
            temporary.write_bytes(pickle.dumps((todo, sys.argv)))

        write_atomically(handout.folder / TODO, write)
        return handout

    def read(self) -> WorkList:
        """Return the work list, and let what this process records name the command that it came from."""
        todo: WorkList
        todo, sys.argv = pickle.loads((self.folder / TODO).read_bytes())
        return todo

    def stop(self) -> None:
        """Tell every worker to stop at the next step."""
        try:
            (self.folder / STOP).touch()
        except OSError as error:
            raise StoreError(f"cannot write {self.folder / STOP}, which tells workers to stop: {error}") from error

    @property
    def stopped(self) -> bool:
        """Whether workers are to stop, or need not start."""
        return (self.folder / STOP).exists() or not self.open

    @property
    def open(self) -> bool:
        """Whether there was something left to do when the last worker said so."""
        return (self.folder / TODO).exists()

    @property
    def job(self) -> str | None:
        """The number of its SLURM job; None where there is none."""
        found = sorted(path.name.removesuffix(SCRIPT) for path in self.folder.glob(f"[0-9]*{SCRIPT}"))
        return found[0] if found else None

    def close(self) -> None:
        """Say that nothing is left to do."""
        with contextlib.suppress(OSError):
            (self.folder / TODO).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what only workers need, now that there are none; what they printed stays."""
        for path in [self.folder / STOP, *self.folder.glob("*.pkl")]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def open_handouts(root: Path, *, engine: str) -> list[Handout]:
    """Return the submissions below a results folder that nobody has seen the end of."""
    return [Handout(folder=path.parent) for path in sorted(root.glob(f".{engine}/*/{TODO}"))]


def submitted_text(root: Path) -> list[str]:
    """Return a line for every SLURM job whose end nobody has seen, with where its tasks print."""
    jobs = [(handout.job, handout.folder) for handout in open_handouts(root, engine="slurm")]
    return [f"SLURM job {job}: its tasks print to {folder}/{job}_*_log.out" for job, folder in jobs if job is not None]


def work_on(handout: Handout, *, name: str, cpus: int, stop: Callable[[], bool]) -> int:
    """Keep workers at a work list on this computer, one per GPU that it sees, else one; return how many runs are left.

    Args:
        handout: the work list.
        name: what people call the job; its workers are numbered.
        cpus: threads of a worker on the CPU whose runs do not state their own.
        stop: asked all the time.

    Raises:
        StoreError: if the disk refuses what a worker writes.
        WorkerError: if workers end before they begin a run.
    """
    from results.store import RecordStore
    from runners.launchers import visible_gpus
    from runners.pool import Pool
    from runners.progress import console
    from runners.sweep_progress import SweepProgress

    todo = handout.read()
    gpus = visible_gpus(todo)
    count = min(len(todo.runs), len(gpus) or 1)
    show = SweepProgress(len(todo.runs), None, named=True)
    console.print(f"{name}: {count} worker{'s' * (count > 1)}, {len(todo.runs)} runs", markup=False, soft_wrap=True)
    threads = None if gpus else cpus
    asked = lambda: stop() or handout.stopped  # noqa: E731
    Pool(todo, count=count, threads=threads, gpus=gpus[:count], show=show, stop=asked, name=name).run()
    left = len(todo.left(RecordStore(todo.results)))
    if not left:
        handout.close()
    return left
