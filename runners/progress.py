"""Progress on a terminal: bars where there is one, plain lines where output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0
console = Console(stderr=True, highlight=False)


@contextmanager
def step_progress(title: str) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """Yield a callback for the trainer that shows steps, loss and the time left."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=None, loss="…")

            def show(done: int, total: int, values: Mapping[str, float]) -> None:
                progress.update(task, completed=done, total=total)
                if "loss" in values:
                    progress.update(task, loss=f"{values['loss']:.3f}")

            yield show
    else:
        yield _lines(title)


def _lines(title: str) -> Callable[[int, int, Mapping[str, float]], None]:
    began, first, last = time.monotonic(), -1, 0.0

    def show(done: int, total: int, values: Mapping[str, float]) -> None:
        nonlocal first, last
        first = done - 1 if first < 0 else first
        now = time.monotonic()
        if "loss" in values and (now - last >= LINE_EVERY_S or done == total):
            last = now
            left = (now - began) / max(1, done - first) * (total - done)
            print(
                f"{title}: step {done} of {total}, loss {values['loss']:.3f}, {left / 60:.1f} min left", file=sys.stderr
            )

    return show
