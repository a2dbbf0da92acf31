"""Small real runs: the real micro_clip from random weights on the three embedded pet breeds, a few steps each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from results.record import Record
from results.store import RecordStore
from runners.compose import compose
from runners.execute import Bench, execute
from runners.plan import Run, check_run

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
EVERY = 5  # the share of the embedded images that are used: every fifth
PETS = ("dataset=pets3", "dataset.sizes=null")  # thinned out, so not of the size that the data set states
SMALL = (
    *PETS,
    "backbone.checkpoint=null",
    "recipe.shots=1",
    f"recipe.max_steps={STEPS}",
    "recipe.batch_size=4",
)
TINY_METHODS = {"LoRA": ["method=lora", "method.rank=1"], "VeRA": ["method=vera", "method.rank=4"]}
BROKEN = ["method=lora", "method.rank=2", "recipe.shots=1000"]  # more shots than there are images: fails when it runs
OnStep = Callable[[int, int, Mapping[str, float]], None]


def silent(done: int, total: int, values: Mapping[str, float]) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A folder of results, small runs that end there, and the folder that their images come from."""

    results: Path
    images: Path

    @property
    def store(self) -> RecordStore:
        return RecordStore(self.results)

    @property
    def machine(self) -> list[str]:
        # one thread: bits are equal for equal numbers of threads, and a subprocess may see other defaults
        # no audits: they have tests of their own
        folders = [f"machine.results={self.results}", f"machine.data_root={self.images}"]
        prepared = f"machine.prepared_root={self.images / 'prepared'}"
        return [*folders, prepared, "machine.threads=1", "machine.audit=false"]

    def overrides(self, *extra: str) -> list[str]:
        return [*SMALL, *self.machine, *extra]

    def run(self, *extra: str) -> Run:
        return check_run(compose("config", self.overrides(*extra)))

    def execute(self, run: Run, *, stop_after: int | None = None, on_step: OnStep = silent) -> Record:
        """Carry a run out; with ``stop_after`` it is asked to stop after so many completed steps."""
        done = 0

        def count(step: int, total: int, values: Mapping[str, float]) -> None:
            nonlocal done
            done = step
            on_step(step, total, values)

        bench = Bench(store=self.store, stop=lambda: stop_after is not None and done >= stop_after, on_step=count)
        return execute(run, bench)

    def beside(self, name: str) -> Lab:
        """Return a lab with an empty folder of its own."""
        return Lab(results=self.results.with_name(f"{self.results.name}-{name}"), images=self.images)

    def file(self, run: Run, name: str) -> Path:
        return self.results / run.id / name

    def logged(self, run: Run) -> list[int]:
        """Return the steps in a run's curves."""
        return [json.loads(line)["step"] for line in self.file(run, "metrics.jsonl").read_text().splitlines()]

    def trained(self, run: Run) -> tuple[bytes, bytes, dict[str, float]]:
        """Return everything a run computed: adapter file, predictions and metrics."""
        record = self.store.read(run.id)
        assert record is not None
        assert record.status == "ok", record.reason
        predictions = self.store.read_predictions(run.id).to_csv()
        return self.file(run, "adapter.safetensors").read_bytes(), predictions.encode(), dict(record.metrics)


def numbers(results: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of every record in a folder, by run."""
    return {id: dict(record.metrics) for id, record in RecordStore(results).scan().records.items()}


def write_table(
    folder: Path, name: str, *, methods: Mapping[str, Sequence[str]] = TINY_METHODS, seeds: Sequence[int] = (1, 2)
) -> None:
    """Write a table file of methods on one data set, with seeds as repeats."""
    fixed = [one for one in SMALL if not one.startswith("dataset")]
    table = {
        "title": f"Small runs of {name}",
        "metric": "test/top1",
        "fixed": [*fixed, "recipe.max_steps=2"],
        "axes": {
            "dataset": {"Pets-3": list(PETS)},
            "method": {label: list(overrides) for label, overrides in methods.items()},
            "seed": {str(seed): [f"seed={seed}"] for seed in seeds},
        },
        "rows": ["method"],
        "columns": ["dataset"],
        "average": ["dataset"],
        "repeat": ["seed"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(table))  # JSON is YAML


def thin_out(split: Path, target: Path) -> None:
    """Write every fifth row of a parquet split, its header included."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(split)
    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.take(list(range(0, len(table), EVERY))), target)
