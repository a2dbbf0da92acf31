"""What one benchmark of training input measured: a typed document, written and read as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from results import bench_files
from results.bench_record import Environment, Spread, spread

SCHEMA = 1
CONSTANT = "constant batch"


@dataclass(frozen=True, kw_only=True)
class FeedResult:
    """One way of feeding.

    Attributes:
        label: its name.
        batch_s: seconds per batch (with a model: per training step), the mean over the timed ones of each round.
        wait_s: seconds of it until the batch was there, likewise.
    """

    label: str
    batch_s: tuple[float, ...]
    wait_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class InputCase:
    """One data set at one image size.

    Attributes:
        dataset: its title.
        kind: ``training``: whole steps of the training loop; ``pixels``: batches alone.
        size: pixels a side that the batches have.
        source_pixels: median width and height of the images in the source.
        images: number of training images.
        batch_size: images per batch.
        feeds: the ways of feeding, in the order of the table.
    """

    dataset: str
    kind: Literal["training", "pixels"]
    size: int
    source_pixels: tuple[int, ...]
    images: int
    batch_size: int
    feeds: tuple[FeedResult, ...]

    def rate(self, feed: FeedResult) -> Spread:
        """Return images per second."""
        return spread([self.batch_size / seconds for seconds in feed.batch_s])

    def relative(self, feed: FeedResult) -> Spread | None:
        """Return the throughput relative to that with a constant batch, taken within rounds; None without one."""
        reference = next((one for one in self.feeds if one.label == CONSTANT), None)
        if reference is None:
            return None
        return spread([there / here for there, here in zip(reference.batch_s, feed.batch_s, strict=True)])


@dataclass(frozen=True, kw_only=True)
class InputBenchmark:
    """One benchmark.

    Attributes:
        name: of its files.
        model: the backbone and method of the training steps.
        settings: the composed recipe and machine.
        steps: timed batches per round.
        environment: where it was measured.
        cases: what was measured.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    steps: int
    environment: Environment
    cases: tuple[InputCase, ...]


def write(benchmark: InputBenchmark, path: Path) -> Path:
    """Write the document with every number measured, wholly or not at all."""
    return bench_files.write(benchmark, path, schema=SCHEMA)


def read(path: Path) -> InputBenchmark:
    """Read a document; StoreError if the file is not there, or is no benchmark of this schema."""
    return bench_files.read(InputBenchmark, path, schema=SCHEMA, verb="input_bench")
