"""Sweeps on a real SLURM of one node (`make test-slurm`): workers that are killed, sent back and told to stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import use_folders
from lab import BROKEN, TINY_METHODS, Lab, Outcome, write_table

import runners.cli
import runners.sweep_progress
from results.claims import Claims, Holder
from runners.events import Event, Started

Command = Callable[..., Outcome]
STEPS = 200  # some seconds, so that there is a middle
MANY = [f"recipe.max_steps={STEPS}", f"recipe.epochs={STEPS}"]
LONG = {label: [*overrides, *MANY] for label, overrides in TINY_METHODS.items()}
CHECKPOINTS = "machine.checkpoint_every_steps=25"
PATIENCE_S = 150.0
TASK = ("launcher.gpus_per_task=0", "launcher.cpus_per_task=1", "launcher.mem_gb=2", "launcher.time_min=10")


def answers() -> bool:
    if shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=60, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not answers(), reason="no SLURM answers here; make test-slurm starts one")


@pytest.fixture
def sweep(lab: Lab, command: Command) -> Iterator[Command]:
    """Sweep a table on SLURM into the lab's results; no job is left behind."""
    yield lambda table, *extra: command("sweep", f"table={table}", "launcher=slurm", *TASK, *lab.machine, *extra)
    subprocess.run(["scancel", "--quiet", "--user=root"], check=False)
    until(lambda: not queue())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Lab:
    """The table ``long``, run one by one in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    lab = Lab(results=folder / "results", images=images)
    with pytest.MonkeyPatch.context() as patch:
        use_folders(folder, patch)
        write_table(folder / "experiments", "long", methods=LONG, seeds=[1])
        assert runners.cli.main(["sweep", "table=long", "launcher=inline", *lab.machine]) == 0
    return lab


def test_an_array_gives_the_bits_of_one_process(experiments: Path, sweep: Command, lab: Lab, swept: Path) -> None:
    write_table(experiments, "small")
    outcome = sweep("small", "launcher.workers=2")
    assert outcome.code == 0, outcome.err
    assert "small: 4 cells, 4 to run by 2 workers" in outcome.err
    assert "small: 4 run, 0 failed, 0 recorded before, 0 left" in outcome.err
    assert outcome.out.startswith("### Small runs of small")
    assert computed(lab) == computed(Lab(results=swept / "results", images=lab.images))
    assert "2 running" in outcome.err
    for log in ("0", "1"):
        assert "ended; runs left: 0" in (folder_of(outcome) / f"{job_of(outcome)}_{log}_0_log.out").read_text()
    assert not list(lab.results.glob(".claims/*.json"))
    assert not list(folder_of(outcome).glob("*.pkl"))


def test_a_failing_cell_is_a_record_and_a_cap_is_kept(experiments: Path, sweep: Command, lab: Lab) -> None:
    write_table(experiments, "small", methods={"Broken": BROKEN, **TINY_METHODS}, seeds=[1])
    outcome = sweep("small", "launcher.workers=2", "launcher.cap=1")
    assert outcome.code == 1
    assert "small: 2 run, 1 failed, 0 recorded before, 0 left" in outcome.err
    (failed,) = (record for record in lab.store.scan().records.values() if record.status == "failed")
    assert f"failed: {failed.id}: {failed.reason}" in outcome.err
    assert "1 pending (JobArrayTaskLimit), 1 running" in outcome.err
    assert "2 running" not in outcome.err
    assert (lab.results / failed.id / "failure.txt").is_file()


def test_killed_workers_change_no_bit(experiments: Path, sweep: Command, lab: Lab, undisturbed: Lab) -> None:
    write_table(experiments, "long", methods=LONG, seeds=[1])
    handed_over = sweep("long", "launcher.workers=2", "launcher.wait=false", CHECKPOINTS)
    assert handed_over.code == 0
    assert handed_over.out == ""
    job = job_of(handed_over)
    held = started(lab, count=2)
    until(lambda: len(list(lab.results.glob("*/checkpoint.pt"))) == 2)
    first, second = sorted(held.values(), key=lambda holder: str(holder.worker))
    assert [first.worker, second.worker] == [f"job {job}_{task} worker 1" for task in (0, 1)]
    subprocess.run(["scancel", "--signal=KILL", f"{job}_0"], check=True)  # the whole step, and so the task
    assert second.pid is not None
    os.kill(second.pid, signal.SIGKILL)  # the worker alone, whose task starts another one
    until(lambda: len(lab.store.scan().records) == 2)
    assert computed(lab) == computed(undisturbed)
    log = (folder_of(handed_over) / f"{job}_1_0_log.out").read_text()
    assert "worker 1 ended (killed by SIGKILL)" in log
    table = sweep("long")
    assert table.code == 0
    assert "0 run, 0 failed, 2 recorded before, 0 left" in table.err


def test_tasks_sent_back_into_the_queue_continue(experiments: Path, sweep: Command, lab: Lab, undisturbed: Lab) -> None:
    write_table(experiments, "long", methods=LONG, seeds=[1])
    handed_over = sweep("long", "launcher.workers=2", "launcher.wait=false", CHECKPOINTS)
    job = job_of(handed_over)
    started(lab, count=2)
    until(lambda: len(list(lab.results.glob("*/checkpoint.pt"))) == 2)
    subprocess.run(["scontrol", "requeue", f"{job}_0"], check=True)
    subprocess.run(["scancel", "--signal=USR2", f"{job}_1"], check=True)  # what says that the time is nearly over
    until(lambda: not list(lab.results.glob(".claims/*.json")))
    assert not lab.store.scan().records
    assert len(list(lab.results.glob("*/checkpoint.pt"))) == 2
    until(lambda: len(lab.store.scan().records) == 2)
    assert computed(lab) == computed(undisturbed)
    logs = [(folder_of(handed_over) / f"{job}_{task}_0_log.out").read_text() for task in (0, 1)]
    assert f"job {job}_0: told to stop; runs left: 2" in logs[0]
    assert f"job {job}_1: its time is over; runs left: 2" in logs[1]
    assert f"Requeued job {job}_1" in logs[1]
    assert all(log.count("Starting with JobEnvironment") == 2 for log in logs)


def test_a_task_whose_time_is_over_goes_on_later(experiments: Path, sweep: Command, lab: Lab) -> None:
    # so long that its time ends first
    longer = {"LoRA": [*TINY_METHODS["LoRA"], "recipe.max_steps=20000", "recipe.epochs=20000"]}
    write_table(experiments, "long", methods=longer, seeds=[1])
    times = ("launcher.time_min=1", "launcher.signal_delay_s=20", "launcher.max_requeues=1")
    handed_over = sweep("long", "launcher.workers=1", "launcher.wait=false", *times)
    job = job_of(handed_over)
    log = folder_of(handed_over) / f"{job}_0_log.out"
    until(lambda: f"Requeued job {job}" in log.read_text() if log.is_file() else False)
    assert "Caught signal SIGUSR2" in log.read_text()
    until(lambda: queue().get(job) == "RUNNING" and log.read_text().count("Starting with JobEnvironment") == 2)


def test_ctrl_c_leaves_jobs_alone_and_scancel_stops_them_in_order(
    experiments: Path, sweep: Command, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(experiments, "long", methods=LONG, seeds=[1])
    interrupt_at_start(monkeypatch)
    outcome = sweep("long", "launcher.workers=1", CHECKPOINTS)
    job = job_of(outcome)
    assert outcome.code == 130
    assert f"job {job} goes on: 'scancel {job}' cancels it" in outcome.err
    assert queue() == {job: "RUNNING"}
    until(lambda: len(list(lab.results.glob("*/checkpoint.pt"))) == 1)
    subprocess.run(["scancel", job], check=True)
    until(lambda: not list(lab.results.glob(".claims/*.json")) and not queue())
    assert "told to stop; runs left: 2" in (folder_of(outcome) / f"{job}_0_log.out").read_text()
    assert len(list(lab.results.glob("*/checkpoint.pt"))) == 1

    outcome = sweep("long", "launcher.workers=1", "launcher.cancel_on_interrupt=true")
    assert outcome.code == 130
    assert "goes on" not in outcome.err
    assert not queue()
    assert not list(lab.results.glob(".claims/*.json"))
    assert not lab.store.scan().records


def test_what_slurm_refuses_is_said(experiments: Path, sweep: Command) -> None:
    write_table(experiments, "small")
    outcome = sweep("small", "launcher.partition=nowhere")
    assert outcome.code == 2
    assert "error: SLURM does not take the job: invalid partition specified: nowhere" in outcome.err


def computed(lab: Lab) -> dict[str, tuple[bytes, str, dict[str, float]]]:
    """Return everything that every run computed: adapter, predictions, metrics."""
    found = {}
    for id, record in lab.store.scan().records.items():
        assert record.status == "ok", record.reason
        adapter = (lab.results / id / "adapter.safetensors").read_bytes()
        found[id] = (adapter, lab.store.read_predictions(id).to_csv(), dict(record.metrics))
    assert found
    return found


def job_of(outcome: Outcome) -> str:
    found = re.search(r"SLURM job (\d+);", outcome.err)
    assert found, outcome.err
    return found[1]


def folder_of(outcome: Outcome) -> Path:
    found = re.search(r"what its tasks print: (.+)", outcome.err)
    assert found, outcome.err
    return Path(found[1])


def queue() -> dict[str, str]:
    command = ["squeue", "--noheader", "--array", "--format=%i %T"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(row.split() for row in rows)


def started(lab: Lab, *, count: int) -> dict[str, Holder]:
    """Return who has which run, once ``count`` runs are taken."""
    claims = Claims(lab.results)
    until(lambda: len(claims.running()) == count)
    return claims.running()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s; the queue: {queue()}"
        time.sleep(0.2)


def interrupt_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGINT once the first run of a sweep is seen to begin."""
    on_event = runners.sweep_progress.SweepProgress.on_event

    def interrupted(self: Any, worker: str, event: Event) -> None:
        on_event(self, worker, event)
        if isinstance(event, Started):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runners.sweep_progress.SweepProgress, "on_event", interrupted)
