"""Progress on a terminal: bars where there is one, plain lines where output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

if TYPE_CHECKING:
    from results.record import Record

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


class SweepProgress:
    """What a sweep shows: the run under way with its steps, how many are left, and when it will be done."""

    def __init__(self, total: int, bars: Progress | None) -> None:
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self.title = ""
        self.bars = bars
        if bars is not None:
            self._overall = bars.add_task("runs", total=total)
            self._current = bars.add_task("", total=None)

    def start(self, title: str) -> None:
        """Show the run that starts."""
        self.title = title
        if self.bars is not None:
            self.bars.reset(self._current, description=title, total=None)

    def on_step(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """Show the steps of the run under way."""
        if self.bars is not None:
            self.bars.update(self._current, completed=done, total=total)

    def finish(self, record: Record) -> None:
        """Show what became of it."""
        self.done += 1
        if self.bars is not None:
            self.bars.update(self._overall, completed=self.done)
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        scores = ", ".join(f"{name} {100 * value:.1f} %" for name, value in record.metrics.items())
        result = scores or f"{record.status}: {record.reason}"
        if self.bars is None or record.status != "ok":
            console.print(
                f"[{self.done}/{self.total}] {self.title}: {result} ({_duration(left)} left)",
                markup=False,
                soft_wrap=True,
            )


@contextmanager
def sweep_progress(total: int) -> Iterator[SweepProgress]:
    """Yield the display of a sweep over ``total`` runs."""
    if not console.is_terminal or total == 0:
        yield SweepProgress(total, None)
        return
    columns = (
        TextColumn("{task.description}", table_column=Column(width=44, no_wrap=True)),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield SweepProgress(total, bars)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


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
