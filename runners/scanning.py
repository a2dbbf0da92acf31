"""Reading a results folder, with a bar on a terminal where that takes a while."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from results.store import RecordStore, Scan

SHOWN_AFTER_S = 1.0


def scan_records(store: RecordStore) -> Scan:
    """Return what :meth:`RecordStore.scan` does; on a terminal, show how many records are checked after a second."""
    if not sys.stderr.isatty():
        return store.scan()
    shown = _Shown(str(store.root))
    try:
        return store.scan(on_read=shown.on_read)
    finally:
        shown.end()


class _Shown:
    def __init__(self, root: str) -> None:
        self._title = f"checking the records of {root}"
        self._began = time.monotonic()
        self._bar: Progress | None = None

    def on_read(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif time.monotonic() - self._began > SHOWN_AFTER_S:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.add_task(self._title, completed=done, total=total)
            self._bar.start()

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
