"""A process that is interrupted, then killed, then started again ends with the bits of one that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from lab import ROOT, Lab, Outcome

PATIENCE_S = 240.0  # for a machine with much else to do
LONG = ("method=lora", "method.rank=1", "recipe.max_steps=30", "machine.checkpoint_every_steps=1")


def test_interrupted_then_killed_then_finished_equals_undisturbed(lab: Lab, command: Callable[..., Outcome]) -> None:
    run, undisturbed = lab.run(*LONG), lab.beside("undisturbed")
    checkpoint, curves = lab.file(run, "checkpoint.pt"), lab.file(run, "metrics.jsonl")

    first = start(lab)
    wait_until(checkpoint.is_file, first)
    first.send_signal(signal.SIGINT)
    asked = time.monotonic()
    _, err = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130
    assert "the same command continues from there" in err
    assert "Traceback" not in err
    assert time.monotonic() - asked < PATIENCE_S / 4
    assert checkpoint.is_file()
    assert lab.store.read(run.id) is None
    reached = len(lab.logged(run))
    assert 1 <= reached < 30

    second = start(lab)
    wait_until(lambda: len(curves.read_text().splitlines()) > reached, second)
    second.kill()
    second.communicate(timeout=PATIENCE_S)
    assert second.returncode == -signal.SIGKILL
    assert checkpoint.is_file()
    assert lab.store.read(run.id) is None

    third = command("run", *lab.overrides(*LONG))
    assert third.code == 0, third.err
    assert "test/top1" in third.out
    assert not checkpoint.exists()
    assert [path.name for path in checkpoint.parent.iterdir() if path.name.startswith(".")] == []

    undisturbed.execute(run)
    assert lab.trained(run) == undisturbed.trained(run)
    assert lab.logged(run) == list(range(1, 31))
    record = lab.store.read(run.id)
    assert record is not None
    assert record.timing is not None
    assert record.timing.steps == 30


def start(lab: Lab) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "randlora", "run", *lab.overrides(*LONG)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
