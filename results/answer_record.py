"""What one benchmark of answering questions measured: a typed document, written and read as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import bench_files
from results.bench_record import Environment, Spread, spread

SCHEMA = 1
PUBLISHED = "one prompt at a time, as published"


@dataclass(frozen=True, kw_only=True)
class AnswerResult:
    """One way of answering.

    Attributes:
        label: its name.
        seconds: for all questions, by round.
        different: answers that differ from those of the published way.
        alone: questions that were put again alone, since the batch could have decided.
    """

    label: str
    seconds: tuple[float, ...]
    different: int
    alone: int


@dataclass(frozen=True, kw_only=True)
class AnswerBenchmark:
    """One benchmark.

    Attributes:
        name: of its files.
        model: the backbone, and the type of its weights.
        dataset: where the questions are from.
        questions: their number.
        tokens: of the shortest, the middle and the longest prompt.
        protocol: how questions are put and answers are read.
        environment: where it was measured.
        ways: what was measured, the published way first.
    """

    name: str
    model: str
    dataset: str
    questions: int
    tokens: tuple[int, ...]
    protocol: Mapping[str, Any]
    environment: Environment
    ways: tuple[AnswerResult, ...]

    def rate(self, way: AnswerResult) -> Spread:
        """Return questions per second."""
        return spread([self.questions / seconds for seconds in way.seconds])

    def relative(self, way: AnswerResult) -> Spread:
        """Return the throughput relative to that of the published way, taken within rounds."""
        reference = next(one for one in self.ways if one.label == PUBLISHED)
        return spread([there / here for there, here in zip(reference.seconds, way.seconds, strict=True)])


def write(benchmark: AnswerBenchmark, path: Path) -> Path:
    """Write the document with every number measured, wholly or not at all."""
    return bench_files.write(benchmark, path, schema=SCHEMA)


def read(path: Path) -> AnswerBenchmark:
    """Read a document; StoreError if the file is not there, or is no benchmark of this schema."""
    return bench_files.read(AnswerBenchmark, path, schema=SCHEMA, verb="answer_bench")
