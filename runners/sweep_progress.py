"""What a sweep shows: what every worker is at, how many runs are done, failed and left, and when it will be over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from results.units import span
from runners.events import Elsewhere, Event, Judged, Recorded, Started, Stepped, Stopped, Waiting
from runners.progress import console

NARROW = 44  # characters of a title; more would leave no room for the bar


@dataclass(kw_only=True)
class _Line:
    """One worker: what it is at, since when, and its line on the terminal."""

    title: str = ""
    task: TaskID | None = None
    first: int | None = None
    since: float = 0.0


class SweepProgress:
    """Shows the events of workers, on a terminal as bars, elsewhere as one line per run that ends.

    Args:
        total: the number of runs.
        bars: the terminal's, None where there is none.
        named: whether to say which worker does what.

    Attributes:
        done: runs that were recorded since the sweep began.
        failed: those of them that failed.
        stopped: what runs said that stopped before their end.
    """

    def __init__(self, total: int, bars: Progress | None, *, named: bool) -> None:
        self.total = total
        self.bars = bars
        self.named = named
        self.done = self.failed = 0
        self.stopped: list[str] = []
        self._began = time.monotonic()
        self._lines: dict[str, _Line] = {}
        self._recorded: set[str] = set()
        if bars is not None:
            self._overall = bars.add_task("runs", total=total, facts="")

    def on_event(self, worker: str, event: Event) -> None:
        """Show what happened at a worker."""
        line = self._line(worker)
        match event:
            case Started(title=title):
                line.title, line.first = title, None
                self._show(line, title, reset=True)
            case Stepped(done=done, total=total):
                self._show(line, line.title, done=done, total=total, unit="steps")
            case Judged(scorer=scorer, done=done, total=total):
                self._show(line, f"{line.title}, {scorer}", done=done, total=total, unit="questions")
            case Waiting(left=left):
                self._show(line, f"waiting for others ({left} left)", reset=True)
            case Stopped(message=message):
                self.stopped.append(f"{line.title}: {message}" if self.named else message)
            case Recorded(run=run, ok=ok, outcome=outcome):
                self.failed += not ok
                self._finish(run, f"{self._name(worker)}{line.title}: {outcome}", always=not ok)
            case Elsewhere(run=run) if run not in self._recorded:
                self._finish(run, f"{run} was recorded by another worker", always=False)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        console.print(text, markup=False, soft_wrap=True)

    def died(self, worker: str, how: str) -> None:
        """Say that a worker is no more."""
        line = self._line(worker)
        at = f" at {line.title}" if line.title else ""
        self.note(f"{worker} ended ({how}){at}; another one takes its place")

    def _finish(self, run: str, text: str, *, always: bool) -> None:
        self._recorded.add(run)
        self.done += 1
        left = self._left()
        if self.bars is not None:
            failed = f", {self.failed} failed" if self.failed else ""
            self.bars.update(self._overall, completed=self.done, facts=f"{failed.removeprefix(', ')}  {left}".strip())
        if self.bars is None or always:
            self.note(f"[{self.done}/{self.total}] {text} ({left})")

    def _left(self) -> str:
        seconds = (time.monotonic() - self._began) / max(1, self.done) * (self.total - self.done)
        return f"{span(seconds)} left"

    def _line(self, worker: str) -> _Line:
        if worker not in self._lines:
            task = None if self.bars is None else self.bars.add_task("", total=None, facts="")
            self._lines[worker] = _Line(task=task)
        return self._lines[worker]

    def _name(self, worker: str) -> str:
        return f"{worker}: " if self.named else ""

    def _show(
        self, line: _Line, title: str, *, done: int = 0, total: int | None = None, unit: str = "", reset: bool = False
    ) -> None:
        if self.bars is None or line.task is None:
            return
        if reset:
            self.bars.reset(line.task, description=title, total=None, facts="")
            return
        if line.first is None or done < line.first:
            line.first, line.since = done, time.monotonic()
        rate = (done - line.first) / max(1e-9, time.monotonic() - line.since)
        facts = f"{done:,} of {total:,} {unit}" + (f", {rate:.1f}/s" if done > line.first else "")
        self.bars.update(line.task, description=title, completed=done, total=total, facts=facts)


@contextmanager
def sweep_progress(total: int, *, named: bool) -> Iterator[SweepProgress]:
    """Yield the display of a sweep over ``total`` runs; ``named`` where several workers carry them out."""
    if not console.is_terminal or total == 0:
        yield SweepProgress(total, None, named=named)
        return
    columns = (
        TextColumn("{task.description}", table_column=Column(width=NARROW, no_wrap=True)),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield SweepProgress(total, bars, named=named)
