"""How far the judging of questions is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from runners.progress import LINE_EVERY_S, console

OnQuestions = Callable[[str, int, int], None]  # what is going on, questions done, questions in all


@contextmanager
def question_progress(title: str) -> Iterator[OnQuestions]:
    """Yield a callback that shows what is going on, how many questions are done, and the time left."""
    if not console.is_terminal:
        yield _lines(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=120) as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{title}: {stage}", total=total, completed=done)
            bars.update(tasks[stage], completed=done)

        yield show


def _lines(title: str) -> OnQuestions:
    began: dict[str, tuple[float, int]] = {}
    last = 0.0

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        start, first = began.setdefault(stage, (now, done))
        if done > first and (now - last >= LINE_EVERY_S or done == total):
            last = now
            left = (now - start) / (done - first) * (total - done)
            text = f"{title}: {stage} {done} of {total}, {left / 60:.1f} min left"
            console.print(text, markup=False, soft_wrap=True)

    return show
