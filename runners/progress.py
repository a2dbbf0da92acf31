"""Progress on a terminal: bars where there is one, plain lines where output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from results.record import Record

LINE_EVERY_S = 30.0
Thing = TypeVar("Thing")
console = Console(stderr=True, highlight=False)


class RunProgress:
    """What one run shows: steps, loss and the time left; then the questions that are judged."""

    def __init__(self, title: str, bar: Progress | None) -> None:
        self.title = title
        self.bar = bar
        self._lines = _Lines()
        if bar is not None:
            self._task = bar.add_task(title, total=None, loss="…")

    def on_step(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """Show the steps of the training."""
        if self.bar is not None:
            self.bar.update(self._task, completed=done, total=total)
            if "loss" in values:
                self.bar.update(self._task, loss=f"{values['loss']:.3f}")
        elif "loss" in values:
            self._lines.show(f"{self.title}: step", done, total, f", loss {values['loss']:.3f}")

    def on_judged(self, scorer: str, done: int, total: int) -> None:
        """Show the questions that are judged."""
        if self.bar is not None:
            self.bar.update(self._task, description=f"{self.title}, {scorer}", completed=done, total=total)
        else:
            self._lines.show(f"{self.title}: {scorer} of question", done, total)


@contextmanager
def run_progress(title: str) -> Iterator[RunProgress]:
    """Yield the display of one run."""
    if not console.is_terminal:
        yield RunProgress(title, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield RunProgress(title, bar)


def scores_of(record: Record) -> str:
    """Return the metrics of a record in one line: of a run on several tasks, their averages."""
    averages = {name: value for name, value in record.metrics.items() if name.startswith("average/")}
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in (averages or record.metrics).items())


def counted(things: Sequence[Thing], what: str) -> Iterator[Thing]:
    """Yield things one by one, with a bar on a terminal once it takes longer than a moment."""
    if not console.is_terminal or len(things) < 1000:
        yield from things
        return
    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as bar:
        yield from bar.track(things, total=len(things))


class _Lines:
    """A line every so often, with the time left; where a count starts again, so does the clock."""

    def __init__(self) -> None:
        self._what = ""
        self._began = self._last = 0.0
        self._first = 0

    def show(self, what: str, done: int, total: int, more: str = "") -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._last, self._first = what, now, 0.0 if more else now, max(0, done - 1)
        if now - self._last >= LINE_EVERY_S or done == total:
            self._last = now
            left = (now - self._began) / max(1, done - self._first) * (total - done)
            print(f"{what} {done:,} of {total:,}{more}, {left / 60:.1f} min left", file=sys.stderr)
