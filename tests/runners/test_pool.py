"""Pools of real worker processes: what is computed does not depend on them, and they survive what happens to them."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from lab import Lab, Outcome, write_table

import runners.pool
from results.claims import Claims
from results.files import StoreError
from results.local_process import started
from results.record import Failure
from results.store import RecordStore
from runners.launchers import Local, WorkerError
from runners.sweep_progress import SweepProgress
from runners.tables import plan_table
from runners.work import Worker
from runners.worklist import Rules, WorkList

Command = Callable[..., Outcome]
KILLS = 20
PATIENCE_S = 400.0  # for a machine with much else to do


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


def test_a_run_that_its_workers_do_not_survive_fails_and_the_others_do_not(small: Path, lab: Lab) -> None:
    todo = work_list(lab, attempts=2)
    victim, over = todo.runs[0].id, threading.Event()
    killed: set[int] = set()

    def kill_whoever_takes_it() -> None:
        while not over.wait(0.02):
            holder = Claims(lab.results).running().get(victim)
            log = lab.store.folder(victim) / "log.txt"
            if holder is not None and holder.pid not in (None, *killed) and not holder.is_gone and log.is_file():
                with suppress(ProcessLookupError):
                    os.kill(holder.pid or 0, signal.SIGKILL)
                    killed.add(holder.pid or 0)
            if len(killed) == 2:
                return

    killer = threading.Thread(target=kill_whoever_takes_it)
    killer.start()
    try:
        show = launch(todo, workers=2)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2
    assert (show.done, show.failed) == (4, 1)
    records = lab.store.scan().records
    assert sorted(record.status for record in records.values()) == ["failed", "ok", "ok", "ok"]
    assert records[victim].failure == Failure(kind="worker_died")
    assert "2 processes ended while they had this run" in (records[victim].reason or "")
    assert "worker" in (lab.store.folder(victim) / "failure.txt").read_text()
    assert left_behind(lab.results) == []


def test_workers_that_are_asked_to_stop_keep_the_state_of_their_runs(small: Path, lab: Lab, swept: Path) -> None:
    todo = work_list(lab)
    asked_at = 0.0

    def stop() -> bool:
        nonlocal asked_at
        if not asked_at and any(lab.results.glob("*/metrics.jsonl")):
            asked_at = time.monotonic()
        return bool(asked_at)

    launch(todo, workers=2, stop=stop)
    took_s = time.monotonic() - asked_at
    assert took_s < PATIENCE_S / 4
    assert len(todo.left(lab.store)) >= 2
    assert Claims(lab.results).running() == {}
    launch(work_list(lab), workers=2)
    assert outcomes(lab.results) == outcomes(swept / "results")


def test_workers_whose_parent_is_killed_end_by_themselves(small: Path, lab: Lab, swept: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=launch, args=(work_list(lab),), kwargs={"workers": 2})
    parent.start()
    deadline = time.monotonic() + PATIENCE_S
    while not any(lab.results.glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert parent.is_alive()
        time.sleep(0.01)
    time.sleep(0.5)  # for the other worker
    pids = [holder.pid for holder in Claims(lab.results).running().values()]
    parent.kill()
    parent.join()
    while any(pid is not None and started(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Claims(lab.results).running() == {}
    launch(work_list(lab), workers=2)
    assert outcomes(lab.results) == outcomes(swept / "results")
    assert left_behind(lab.results) == []


def test_two_sweeps_at_once_run_each_cell_once(small: Path, lab: Lab, swept: Path) -> None:
    both = [work_list(lab), work_list(lab)]
    with ThreadPoolExecutor(2) as pool:
        shows = list(pool.map(lambda todo: launch(todo, workers=1), both))
    assert [show.done for show in shows] == [4, 4]
    assert outcomes(lab.results) == outcomes(swept / "results")
    logs = [path.read_text() for path in lab.results.glob("*/log.txt")]
    assert len(logs) == 4
    assert all(text.count("--- ") == 1 for text in logs)
    assert left_behind(lab.results) == []


def test_workers_that_do_not_start_are_an_error_that_shows_why(
    small: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners.pool, "_context", lambda: multiprocessing.get_context("fork"))
    monkeypatch.setattr(Worker, "work", unlucky)
    with pytest.raises(WorkerError, match=r"(?s)before they begin a run \(exit code 1\).*out of luck"):
        launch(work_list(lab), workers=1)
    assert Claims(lab.results).running() == {}


def test_a_full_disk_ends_a_pool_with_an_error(small: Path, lab: Lab) -> None:
    """As far as it can be had without one: what should be a folder is a file."""
    todo = work_list(lab)
    lab.results.mkdir()
    (lab.results / todo.runs[0].id).write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        launch(todo, workers=1)
    assert Claims(lab.results).running() == {}


def unlucky(self: Worker) -> None:
    """Be a worker that cannot start."""
    os.write(2, b"out of luck\n")
    os._exit(1)
