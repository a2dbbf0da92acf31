"""What planning shows while steps are predicted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from runners.progress import console

QUIET_S = 5.0  # below this, output that goes to a file says nothing


@contextmanager
def prediction_progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for how many of how many are done: a bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        last = time.monotonic()

        def say(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= QUIET_S:
                console.print(f"predicted {done} of {total} kinds of step", markup=False, soft_wrap=True)
                last = time.monotonic()

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("predicting steps", total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield show
