"""Prepare the tiny dataset in a process of its own and stop in the middle: killed, or until a file appears."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tiny_images import describe, official

from randlora.data.prepared import PreparedStore
from randlora.data.prepared_build import Event

STOP_AT = 3  # images of the test part


def main(root: Path, how: str) -> None:
    def on_progress(event: Event) -> None:
        if (event.kind, event.pool, event.done) != ("decoding", "test", STOP_AT):
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        (root / "started").touch()
        while not (root / "go").exists():
            time.sleep(0.01)

    dataset = describe(splits=official(hold_out=4))
    PreparedStore(folder=root / "prepared").prepare(dataset, 8, root=root, on_progress=on_progress)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
