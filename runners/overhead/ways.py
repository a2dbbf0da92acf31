"""Ways of carrying runs out, each as a person would: commands in fresh processes, their start included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

from results.overhead_record import ALONE, WayResult
from results.record import Record
from results.store import RecordStore
from runners.compose import ConfigError
from runners.launchers import cores
from runners.machine import ROOT
from runners.overhead.carry_out import Request
from runners.overhead.cells import Cells

LAST_LINES = 5


@dataclass(kw_only=True)
class Measured:
    """What is known of the runs of one way, over the rounds; fields as of :class:`WayResult`."""

    used_s: list[float] = field(default_factory=list)
    inside_s: list[float] = field(default_factory=list)
    outside_s: list[float] = field(default_factory=list)

    def add(self, record: Record, *, elapsed_s: float | None) -> None:
        """Add a run, and what passed from the record before to its own; ConfigError if it failed."""
        timing = record.timing
        if record.status != "ok" or timing is None or timing.total_s is None:
            raise ConfigError(f"{record.key.method} on {record.key.dataset} {record.status}: {record.reason}")
        used_s = (timing.train_s or 0.0) + (timing.eval_s or 0.0)
        self.used_s.append(used_s)
        self.inside_s.append(timing.total_s - used_s)
        if elapsed_s is not None:
            self.outside_s.append(elapsed_s - used_s)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way: fields as of :class:`WayResult`, and what carries the runs out and measures them."""

    label: str
    at_once: int
    runs: int
    carry_out: Callable[[Measured], None]
    measured: Measured = field(default_factory=Measured)

    def __call__(self) -> None:
        """Carry the runs out once."""
        self.carry_out(self.measured)

    def result(self, seconds: Sequence[float]) -> WayResult:
        """Return what was measured, with the seconds of each round."""
        known = self.measured
        return WayResult(
            label=self.label,
            at_once=self.at_once,
            runs=self.runs,
            seconds=tuple(seconds),
            used_s=tuple(known.used_s),
            inside_s=tuple(known.inside_s),
            outside_s=tuple(known.outside_s),
        )


@dataclass(kw_only=True)
class Scratch:
    """Folders of results that nothing was written to so far, below ``root``."""

    root: Path
    used: int = 0

    def fresh(self) -> Path:
        """Return the next one."""
        self.used += 1
        return self.root / str(self.used)


def ways(cells: Cells, alone: Cells, *, workers: int, extra: Sequence[str], scratch: Scratch) -> tuple[Way, ...]:
    """Return every way of carrying out ``cells``; those that give each run a process of its own take ``alone``."""
    launch = partial(_launch, cells, scratch=scratch)
    single = partial(_alone, alone, extra=extra, scratch=scratch)

    def sweep(label: str, launcher: Sequence[str], at_once: int = 1, more: Sequence[str] = ()) -> Way:
        carry_out = partial(launch, launcher=launcher, extra=[*extra, *more])
        return Way(label=label, at_once=at_once, runs=len(cells), carry_out=carry_out)

    found = [
        Way(label=ALONE, at_once=1, runs=len(alone), carry_out=partial(single, at_once=1)),
        Way(
            label="one multirun",
            at_once=1,
            runs=len(cells),
            carry_out=partial(_multirun, cells, extra=extra, scratch=scratch),
        ),
        sweep("inline launcher", ["launcher=inline"]),
        sweep("1 worker", _local(1)),
        sweep("1 worker, backbone not kept", _local(1), more=["machine.keep_backbone_mib=0"]),
    ]
    if workers > 1:
        together = partial(single, at_once=workers)
        found[1:1] = [
            Way(label=f"{ALONE}, {workers} at once", at_once=workers, runs=len(alone), carry_out=together),
        ]
        found += [sweep(f"{workers} workers", _local(workers), at_once=workers)]
    return tuple(found)


def verb(*arguments: str) -> None:
    """Carry a command out in a fresh process; ConfigError if it fails."""
    process(["runners.cli", *arguments], shown=f"randlora {' '.join(arguments)}")


def process(module: Sequence[str], *, shown: str) -> None:
    """Run a module in a fresh process; ConfigError with the last of what it printed if it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", *module], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    if done.returncode != 0:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-LAST_LINES:])
        raise ConfigError(f"'{shown}' ended with code {done.returncode}: {last}")


def _local(workers: int) -> list[str]:
    return ["launcher=local", f"launcher.workers={workers}"]


def _alone(cells: Cells, measured: Measured, *, at_once: int, extra: Sequence[str], scratch: Scratch) -> None:
    """Give every run a process of its own, so many at once, among which the cores are shared out."""
    results = scratch.fresh()
    threads = [f"machine.threads={max(1, cores() // at_once)}"] if at_once > 1 else []

    def carry_out(number: int, job: Sequence[str]) -> tuple[Record, float]:
        folder = results / str(number)  # of its own, where its record is the only one
        began = time.perf_counter()
        verb("run", *job, *extra, *threads, f"machine.results={folder}")
        elapsed_s = time.perf_counter() - began
        (record,) = _records(folder, 1).values()
        return record, elapsed_s

    jobs = cells.jobs()
    with ThreadPoolExecutor(at_once) as pool:
        for record, elapsed_s in pool.map(carry_out, range(len(jobs)), jobs):
            measured.add(record, elapsed_s=elapsed_s)


def _multirun(cells: Cells, measured: Measured, *, extra: Sequence[str], scratch: Scratch) -> None:
    results = scratch.fresh()
    verb("run", "-m", *cells.multirun(*extra, f"machine.results={results}"))
    for record in _records(results, len(cells)).values():
        measured.add(record, elapsed_s=None)


def _launch(
    cells: Cells, measured: Measured, *, launcher: Sequence[str], extra: Sequence[str], scratch: Scratch
) -> None:
    """Carry the runs out as a sweep does."""
    results = scratch.fresh()
    asked, answer = results.with_suffix(".request.json"), results.with_suffix(".answer.json")
    jobs = cells.jobs(*extra, f"machine.results={results}")
    Request(jobs=jobs, launcher=launcher, results=str(results)).write(asked)
    process(["runners.overhead.carry_out", str(asked), str(answer)], shown=f"a sweep with {' '.join(launcher)}")
    moments = json.loads(answer.read_text(encoding="utf-8"))
    since = since_the_record_before(moments)
    for id, record in _records(results, len(cells)).items():
        measured.add(record, elapsed_s=since.get(id))


def since_the_record_before(moments: Mapping[str, Sequence[tuple[str, float]]]) -> dict[str, float]:
    """Return the seconds that passed between the records of a worker, by the run of the later one."""
    return {run: at - before for told in moments.values() for (_, before), (run, at) in pairwise(told)}


def _records(results: Path, count: int) -> Mapping[str, Record]:
    records = dict(RecordStore(results).scan().records)
    if len(records) != count:
        raise ConfigError(f"{len(records)} of {count} runs were recorded in {results}")
    return records
