"""What a preparation shows: a bar with images per second on a terminal, a line for each pool of images in any case."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runners.interrupt import Interrupted
from runners.progress import LINE_EVERY_S, console

if TYPE_CHECKING:
    from randlora.data.prepared_build import Event
    from randlora.data.prepared_manifest import PartManifest, PoolManifest

Show = Callable[["Event"], None]
WORDS = {
    "waiting": "another process is preparing it, waiting for that to end",
    "outdated": "the source has changed since it was prepared, preparing it again",
    "kept": "kept from an interrupted preparation",
}


@contextmanager
def decoding_bars() -> Iterator[Show]:
    """Yield a callback for ``PreparedStore.prepare`` that shows a bar for each pool; the verb's own display."""
    from tqdm import tqdm

    bar: tqdm[Any] | None = None

    def show(event: Event) -> None:
        nonlocal bar
        if event.kind == "decoding":
            if bar is None:
                title = f"{event.dataset} {event.pool}"
                bar = tqdm(total=event.total, desc=title, unit=" images", file=sys.stderr, disable=None)
            bar.update(event.done - bar.n)
            return
        if bar is not None:
            bar.close()
            bar = None
        if event.kind in WORDS:
            place = event.dataset if event.pool is None else f"{event.dataset} {event.pool}"
            print(f"{place}: {WORDS[event.kind]}", file=sys.stderr)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def part_text(manifest: PartManifest | PoolManifest) -> str:
    """Return a prepared part or pool in words, with the first few images that could not be read."""
    classes = sum(count > 0 for count in manifest.per_class)
    text = f"{manifest.images:,} images, {classes} classes, {len(manifest.skipped)} skipped"
    if not manifest.skipped:
        return text
    return f"{text} (positions {', '.join(map(str, manifest.skipped[:5]))}{', …' if len(manifest.skipped) > 5 else ''})"


def decoding_lines(stop: Callable[[], bool]) -> Show:
    """Return a callback that shows a line for each pool, beside other displays; it raises Interrupted if ``stop()``."""
    last = time.monotonic()

    def show(event: Event) -> None:
        nonlocal last
        if stop():
            raise Interrupted(f"interrupted while preparing {event.dataset}; run it again to go on")
        now = time.monotonic()
        place = event.dataset if event.pool is None else f"{event.dataset} {event.pool}"
        if event.kind == "decoding":
            if now - last < LINE_EVERY_S:
                return
            text = f"decoding, {event.done:,} of {'?' if event.total is None else f'{event.total:,}'} images"
        elif event.kind == "done" and event.manifest is not None:
            text = part_text(event.manifest)
        elif event.kind in WORDS:
            text = WORDS[event.kind]
        else:
            return
        last = now
        console.print(f"{place}: {text}", markup=False, soft_wrap=True)

    return show
