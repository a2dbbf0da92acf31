"""What the launchers for clusters do where there is none: their jobs, their errors, and following workers that end."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from lab import ROOT, SMALL, Lab, Outcome, write_table

import runners.follow
import runners.slurm_task
from runners.follow import Engine, follow
from runners.handout import Handout
from runners.slurm_queue import Job
from runners.slurm_task import Notice, Task
from runners.sweep_progress import SweepProgress
from runners.worklist import Rules, WorkList

Command = Callable[..., Outcome]
BIN = {
    "sbatch": 'cp "$1" "$0.script"; echo Submitted batch job 7',
    "srun": "exit 1",
    "scontrol": "exit 1",
    "scancel": 'echo "$@" >> "$0.calls"',
    "squeue": "exit 0",
}
ANSWERS = {
    "nothing": ("exit 0", {}),
    "tasks": (r'printf "7_0|RUNNING|None\n7_1|PENDING|Priority\n"', {"7_0": "running", "7_1": "pending (Priority)"}),
    "a job of long ago": ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", {}),
    "no controller": ("echo Unable to contact slurm controller >&2; exit 1", None),
}
LORA = ("method=lora", "method.rank=1")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for SLURM's commands, first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in BIN.items():
        write_command(folder / name, body)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(runners.follow, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(runners.follow, "ASK_EVERY_S", 0.0)
    return folder


@pytest.fixture
def signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def write_command(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def sweep(experiments: Path, lab: Lab, command: Command) -> Command:
    write_table(experiments, "small", seeds=[1])
    return lambda *extra: command("sweep", "table=small", *lab.machine, *extra)


def test_a_job_states_what_was_asked_for(slurm: Path, sweep: Command, lab: Lab) -> None:
    asked = {
        "workers": "9",
        "cap": "1",
        "partition": "gpu",
        "account": "us",
        "qos": "night",
        "time_min": "90",
        "gpus_per_task": "2",
        "cpus_per_task": "8",
        "mem_gb": "1.5",
        "setup": "[module load cuda]",
        "signal_delay_s": "300",
        "wait": "false",
    }
    fields = [f"launcher.{name}={value}" for name, value in asked.items()]
    outcome = sweep("launcher=slurm", *fields, "+launcher.extra.constraint=a100")
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""
    assert "SLURM job 7; what its tasks print: " in outcome.err
    assert "'scancel 7' cancels it" in outcome.err
    script = (slurm / "sbatch.script").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, flags=re.MULTILINE))
    expected = {
        "array": "0-1%1",  # two runs keep two tasks busy
        "partition": "gpu",
        "account": "us",
        "qos": "night",
        "time": "90",
        "gpus-per-node": "2",
        "cpus-per-task": "8",
        "mem": "1536M",
        "signal": "USR2@300",
        "constraint": "a100",
        "requeue": "",
    }
    assert {name: options.get(name) for name in expected} == expected
    assert "\nmodule load cuda\n" in script
    (folder,) = (lab.results / ".slurm").iterdir()
    assert len(Handout(folder=folder).read().runs) == 2
    assert len(list(folder.glob("7_*_submitted.pkl"))) == 2


def test_tasks_that_all_end_are_missed(slurm: Path, sweep: Command, lab: Lab) -> None:
    outcome = sweep("launcher=slurm")
    assert outcome.code == 1
    (folder,) = (lab.results / ".slurm").iterdir()
    assert f"no worker is left, and 2 runs are; what they printed: {folder}" in outcome.err
    assert "small: 0 run, 0 failed, 0 recorded before, 2 left" in outcome.err
    assert not list(folder.glob("*.pkl"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("launcher.workers=0", "Slurm.workers = 0; valid: a whole number of 1 or more"),
        ("launcher.time_min=2", "signal_delay_s = 120, but a task runs 2 minutes; valid: less than 120"),
        ("launcher.setup=module", "Slurm.setup = 'module'; valid: a list of shell commands"),
        ("launcher.gpu=1", "unknown key 'launcher.gpu'"),
    ],
)
def test_mistakes_are_found_before_anything_is_submitted(slurm: Path, sweep: Command, extra: str, message: str) -> None:
    outcome = sweep("launcher=slurm", extra)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (slurm / "sbatch.script").exists()


def test_what_is_not_here_is_said(slurm: Path, sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        assert "error: launcher=slurm needs submitit: pip install" in sweep("launcher=slurm").err
        patch.setitem(sys.modules, "ray", None)
        assert "error: launcher=ray needs Ray: pip install" in sweep("launcher=ray").err
    write_command(slurm / "sbatch", "echo sbatch: error: Batch job submission failed: no such account >&2; exit 1")
    refused = sweep("launcher=slurm")
    assert refused.code == 2
    assert "error: SLURM does not take the job: Batch job submission failed: no such account" in refused.err
    monkeypatch.setenv("PATH", str(slurm.parent))
    absent = sweep("launcher=slurm")
    assert absent.code == 2
    assert (
        "error: launcher=slurm needs SLURM, and sbatch, srun, squeue, scancel, scontrol cannot be found" in absent.err
    )


@pytest.mark.parametrize("name", ANSWERS)
def test_the_queue_is_read(slurm: Path, name: str) -> None:
    body, expected = ANSWERS[name]
    write_command(slurm / "squeue", body)
    assert Job(id="7").alive() == expected


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("sent", "left", "requeued"),
    [
        ([], 3, False),
        ([signal.SIGUSR2], 3, True),
        ([signal.SIGUSR2], 0, False),
        ([signal.SIGTERM], 3, False),
        ([signal.SIGUSR2, signal.SIGTERM], 3, True),
    ],
)
def test_only_the_end_of_its_time_sends_a_job_back(sent: list[int], left: int, requeued: bool) -> None:
    calls: list[int] = []
    notice = Notice(signal.SIGUSR2, requeue=lambda number, frame: calls.append(number), patience_s=60.0)
    for number in sent:
        signal.raise_signal(number)
    assert notice.given is bool(sent)
    notice.answer(left)
    assert calls == ([signal.SIGUSR2] if requeued else [])


@pytest.mark.usefixtures("signals")
def test_a_job_whose_run_does_not_stop_goes_back_all_the_same() -> None:
    calls: list[int] = []
    notice = Notice(signal.SIGUSR2, requeue=lambda number, frame: calls.append(number), patience_s=0.05)
    signal.raise_signal(signal.SIGUSR2)
    deadline = time.monotonic() + 10
    while not calls and time.monotonic() < deadline:
        time.sleep(0.01)
    notice.answer(3)
    assert calls == [signal.SIGUSR2]
    assert notice.text == "its time is over"


def test_a_task_starts_again_as_it_was(tmp_path: Path) -> None:
    task = Task(handout=Handout(folder=tmp_path), cpus=2, patience_s=60.0)
    again = task.checkpoint()
    assert again.function == task
    assert (again.args, again.kwargs) == ((), {})


class OneWorker(Engine):
    """A worker that carries out one run when it is first asked for."""

    def __init__(self, lab: Lab, todo: WorkList) -> None:
        self.lab = lab
        self.todo = todo
        self.calls: list[str] = []

    def alive(self) -> Mapping[str, str] | None:
        self.calls.append("alive")
        if "withdraw" in self.calls:
            return {}
        if len(self.calls) == 1:
            self.lab.execute(self.todo.runs[0])
        return {"1": "running"}

    def withdraw(self) -> None:
        self.calls.append("withdraw")

    def end(self) -> None:
        self.calls.append("end")


def test_runs_are_followed_by_their_records(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runners.follow, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(runners.follow, "READ_ALL_EVERY_S", 0.0)
    todo = WorkList.of([lab.run(*LORA)], store=lab.store, rules=Rules())
    handout = Handout.of(todo, engine="slurm")
    engine, show = OneWorker(lab, todo), SweepProgress(1, None, named=True)
    goes_on = follow(todo, handout=handout, engine=engine, show=show, stop=lambda: False, cancel_on_stop=False)
    assert not goes_on
    assert show.done == 1
    assert engine.calls[-2:] == ["withdraw", "alive"]
    assert "lora rank=1 on pets3 sizes=null, seed 1: test/top1" in capsys.readouterr().err
    assert not (handout.folder / "todo.pkl").exists()


@pytest.mark.parametrize("cancel", [False, True])
def test_an_interruption_stops_workers_only_where_that_is_asked_for(lab: Lab, cancel: bool) -> None:
    todo = WorkList.of([lab.run(*LORA)], store=lab.store, rules=Rules())
    handout = Handout.of(todo, engine="slurm")
    engine, show = OneWorker(lab, todo), SweepProgress(1, None, named=True)
    goes_on = follow(todo, handout=handout, engine=engine, show=show, stop=lambda: True, cancel_on_stop=cancel)
    assert goes_on is not cancel
    assert engine.calls == (["withdraw", "alive"] if cancel else [])
    assert (handout.folder / "todo.pkl").exists() is not cancel


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra: ray)")
def test_ray_gives_the_bits_of_one_process(experiments: Path, command: Command, lab: Lab, swept: Path) -> None:
    write_table(experiments, "small")
    outcome = command("sweep", "table=small", "launcher=ray", *lab.machine)
    assert outcome.code == 0, outcome.err
    assert "small: 4 run, 0 failed, 0 recorded before, 0 left" in outcome.err
    whole = Lab(results=swept / "results", images=lab.images)
    for id, record in lab.store.scan().records.items():
        assert record.metrics == whole.store.read(id).metrics  # type: ignore[union-attr]
    assert len(list(lab.results.glob(".ray/*/*.log"))) == 2


@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [("joblib", "hydra_plugins.hydra_joblib_launcher"), ("submitit_local", "hydra_plugins.hydra_submitit_launcher")],
)
def test_hydras_own_launchers_record_runs_and_tell_of_failures(lab: Lab, launcher: str, plugin: str) -> None:
    pytest.importorskip(plugin, reason="this launcher of Hydra is not installed")
    overrides = [one for one in SMALL if not one.startswith("recipe.shots")]
    arguments = ["-m", f"hydra/launcher={launcher}", *overrides, *lab.machine, *LORA, "recipe.shots=1,1000"]
    ended = subprocess.run(
        [sys.executable, "-m", "runners.cli", "run", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert sorted(record.status for record in lab.store.scan().records.values()) == ["failed", "ok"]
