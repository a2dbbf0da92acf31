"""Pools of real worker processes: what is computed does not depend on them, and they survive what happens to them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lab import Lab, Outcome, write_table

import runners.pool
from results.claims import Claims
from results.store import RecordStore
from runners.launchers import Local
from runners.sweep_progress import SweepProgress
from runners.tables import plan_table
from runners.worklist import Rules, WorkList

Command = Callable[..., Outcome]
KILLS = 20
PATIENCE_S = 400.0  # for a machine with much else to do


@pytest.fixture(scope="module", autouse=True)
def _start_at_once() -> Iterator[None]:
    """Let workers start with everything loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners.pool, "PRELOAD", (*runners.pool.PRELOAD, "warm_clip"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


@pytest.fixture
def small(experiments: Path) -> Path:
    write_table(experiments, "small")
    return experiments


def work_list(lab: Lab, **rules: object) -> WorkList:
    table = plan_table("small", forwarded=lab.machine)
    return WorkList.of(map(table.check, table.runs), store=lab.store, rules=Rules(**rules))  # type: ignore[arg-type]


def launch(todo: WorkList, *, workers: int, stop: Callable[[], bool] = lambda: False) -> SweepProgress:
    show = SweepProgress(len(todo.runs), None, named=True)
    launcher = Local(workers=workers, attempts=todo.rules.attempts, timeout_s=None, stale_after_s=90.0)
    launcher.launch(todo, show=show, stop=stop)
    return show


def outcomes(results: Path) -> dict[str, tuple[dict[str, float], bytes, str]]:
    """Everything that runs computed: metrics, adapters and predictions, by run."""
    store = RecordStore(results)
    return {
        id: (
            dict(record.metrics),
            (store.folder(id) / "adapter.safetensors").read_bytes(),
            store.read_predictions(id).to_csv(),
        )
        for id, record in store.scan().records.items()
    }


def left_behind(results: Path) -> list[str]:
    """Checkpoints, claims, and files that were half written."""
    patterns = ("*/checkpoint.pt", ".claims/*", "*/.*")
    return [str(path.relative_to(results)) for pattern in patterns for path in results.glob(pattern)]


def test_two_workers_compute_the_bits_of_one(small: Path, command: Command, lab: Lab, swept: Path) -> None:
    outcome = command("sweep", "table=small", *lab.machine, "launcher.workers=2")
    assert outcome.code == 0, outcome.err
    assert "small: 4 cells, 4 to run by 2 workers" in outcome.err
    assert "4 run, 0 failed, 0 recorded before, 0 left" in outcome.err
    assert "Small runs of small" in outcome.out
    assert outcomes(lab.results) == outcomes(swept / "results")
    assert left_behind(lab.results) == []
    logs = [path.read_text() for path in lab.results.glob("*/log.txt")]
    assert len(logs) == 4
    assert all(text.startswith("--- ") and "worker " in text for text in logs)


def test_workers_that_are_killed_twenty_times_change_no_bit(small: Path, lab: Lab, swept: Path) -> None:
    """At random moments while a run loads, trains, or is judged and recorded."""
    draw = random.Random(20261124)
    phases = draw.choices([set(), {"metrics.jsonl"}, {"adapter.safetensors"}], weights=[1, 2, 2], k=KILLS)
    over, killed = threading.Event(), set[int]()

    def victims(files: set[str]) -> list[int]:
        """The workers whose run has come to where it has these files."""
        holders = Claims(lab.results).running().values()
        living = [one for one in holders if one.pid is not None and not one.is_gone]
        living = [one for one in living if one.pid not in killed]
        return [one.pid or 0 for one in living if files <= {path.name for path in lab.store.folder(one.run).glob("*")}]

    def kill_now_and_then() -> None:
        while phases and not over.wait(0.01):
            if victims(phases[-1]) and not over.wait(draw.uniform(0.0, 0.3)) and (found := victims(phases[-1])):
                with suppress(ProcessLookupError):
                    os.kill(victim := draw.choice(found), signal.SIGKILL)
                    killed.add(victim)
                    phases.pop()

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        while True:
            launch(work_list(lab, attempts=KILLS + 1), workers=2)
            if not phases:
                break
            shutil.rmtree(lab.results)  # the table is small, and was done before the last of them
    finally:
        over.set()
        killer.join()
    assert len(lab.store.scan().records) == len(plan_table("small").runs)
    assert outcomes(lab.results) == outcomes(swept / "results")
    assert left_behind(lab.results) == []
