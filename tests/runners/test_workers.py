"""One worker: what it takes, what it leaves to others, and what becomes of runs that do not end well."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from lab import Lab

import runners.execute
import runners.work
from results.claims import Claims
from results.files import StoreError
from results.record import Failure
from runners.events import Elsewhere, Event, Recorded, Started, Stepped, Stopped, Waiting
from runners.failures import Place, failure_of
from runners.launchers import Local, visible_gpus
from runners.plan import Run
from runners.trainer import DivergenceError
from runners.work import HUNG, Worker
from runners.worker_process import with_threads
from runners.worklist import Rules, WorkList, in_groups

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 9 GiB."
LORA = ("method=lora", "method.rank=1")


class Told(list[Event]):
    """Events, with something to do at each."""

    def __init__(self, then: Callable[[Event], None] = lambda event: None) -> None:
        super().__init__()
        self.then = then

    def __call__(self, event: Event) -> None:
        self.append(event)
        self.then(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def worker(lab: Lab, *runs: Run, told: Told, stop: Callable[[], bool] = lambda: False, **rules: Any) -> Worker:
    todo = WorkList.of(runs, store=lab.store, rules=Rules(**rules))
    return Worker(todo, name="tester", own_process=False, stop=stop, report=told)


def test_runs_are_taken_one_after_another_and_given_back(lab: Lab) -> None:
    runs = [lab.run(*LORA, f"seed={seed}", "recipe.max_steps=1") for seed in (1, 2)]
    told = Told()
    worker(lab, *runs, told=told).work()
    assert [event.run for event in told.of(Started)] == [run.id for run in runs]
    assert [event.ok for event in told.of(Recorded)] == [True, True]
    assert set(lab.store.scan().records) == {run.id for run in runs}
    assert Claims(lab.results).running() == {}


def test_runs_of_one_backbone_and_data_set_come_together(lab: Lab) -> None:
    names = {
        name: lab.run(*LORA, *extra)
        for name, extra in {
            "a1": ["seed=1"],
            "b1": ["seed=1", "backbone=micro_clip_vision", "backbone.checkpoint=null", "recipe=clip_vision"],
            "a2": ["seed=2"],
            "b2": ["seed=2", "backbone=micro_clip_vision", "backbone.checkpoint=null", "recipe=clip_vision"],
        }.items()
    }
    ids = {run.id: name for name, run in names.items()}
    assert [ids[run.id] for run in in_groups(list(names.values()))] == ["a1", "a2", "b1", "b2"]


def test_what_another_has_is_left_to_it(lab: Lab) -> None:
    first, second = (lab.run(*LORA, f"seed={seed}", "recipe.max_steps=1") for seed in (1, 2))
    other = Claims(lab.results).take(first.id)
    assert other is not None

    def finish(event: Event) -> None:
        """When this worker has nothing else to do, the other one ends its run."""
        if isinstance(event, Waiting) and other.is_held():
            assert lab.store.read(first.id) is None
            lab.execute(first)
            other.release()

    told = Told(finish)
    worker(lab, first, second, told=told).work()
    assert [event.run for event in told.of(Started)] == [second.id]
    assert [event.run for event in told.of(Elsewhere)] == [first.id]
    assert told.of(Waiting)


def test_a_run_that_was_taken_over_is_stopped_and_not_recorded(lab: Lab) -> None:
    run = lab.run(*LORA)

    def take_over(event: Event) -> None:
        if isinstance(event, Stepped) and event.done == 2:
            claims = Claims(lab.results)
            later = claims.path(run.id, 2)
            later.write_text(claims.path(run.id, 1).read_text().replace(tester.bench.store.root.name, ""))
            assert tester._beat is not None
            assert not tester._beat.claim.touch()

    told = Told(take_over)
    stop: Callable[[], bool] = lambda: bool(told.of(Stopped))  # noqa: E731
    tester = worker(lab, run, told=told, stop=stop)
    tester.work()
    (stopped,) = told.of(Stopped)
    assert "taken over by another process" in stopped.message
    assert lab.store.read(run.id) is None
    assert Claims(lab.results).running()[run.id].generation == 2


def test_a_run_that_takes_too_long_fails_and_continues_with_more_time(lab: Lab) -> None:
    run, undisturbed = lab.run(*LORA), lab.beside("undisturbed")

    def let_time_pass(event: Event) -> None:
        if isinstance(event, Stepped):
            assert tester._beat is not None
            tester._beat._began -= 3600

    told = Told(let_time_pass)
    tester = worker(lab, run, told=told, timeout_s=1800)
    tester.work()
    record = lab.store.read(run.id)
    assert record is not None
    assert record.failure == Failure(kind="timed_out", step=2, steps=4)
    assert record.reason is not None
    assert "timed out after 30 min 00 s at step 2 of 4; it continues from there with more time" in record.reason
    assert [event.ok for event in told.of(Recorded)] == [False]
    assert lab.file(run, "checkpoint.pt").exists()

    worker(lab, run, told=Told()).work()
    undisturbed.execute(run)
    assert lab.trained(run) == undisturbed.trained(run)
    assert len(lab.logged(run)) == 4


def test_a_run_that_does_not_stop_takes_its_process_with_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lab.run(*LORA)
    codes: list[int] = []
    over = threading.Event()

    def hang(run: Run, bench: Any) -> Any:
        assert over.wait(60)
        raise SystemExit  # instead of the process, which is this one

    def leave(code: int) -> None:
        codes.append(code)
        over.set()

    monkeypatch.setattr(runners.work, "execute", hang)
    monkeypatch.setattr(runners.work.os, "_exit", leave)
    todo = WorkList.of([run], store=lab.store, rules=Rules(timeout_s=0.01))
    hanging = Worker(todo, name="tester", own_process=True, stop=lambda: False, report=Told())
    hanging.grace_s = 0.01
    with pytest.raises(SystemExit):
        hanging.work()
    assert codes == [HUNG]
    record = lab.store.read(run.id)
    assert record is not None
    assert record.failure == Failure(kind="timed_out")
    assert "before the first step" in str(record.reason)
    assert Claims(lab.results).running() == {}


def test_a_record_that_reads_like_the_one_before_is_another_one(lab: Lab) -> None:
    run = lab.run(*LORA, "recipe.shots=1000")
    record = lab.execute(run)
    todo = WorkList.of([run], store=lab.store, rules=Rules())
    assert not todo.is_done(lab.store, run.id)
    lab.store.write(record)
    assert todo.is_done(lab.store, run.id)


def test_the_first_failure_ends_the_work_where_that_is_asked_for(lab: Lab) -> None:
    runs = [lab.run(*LORA, "recipe.shots=1000", f"seed={seed}") for seed in (1, 2)]
    told = Told()
    worker(lab, *runs, told=told, fail_fast=True).work()
    assert len(told.of(Recorded)) == len(lab.store.scan().records) == 1


def test_a_disk_that_refuses_ends_the_work_and_gives_the_run_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run = lab.run(*LORA, "recipe.max_steps=1")
    monkeypatch.setattr("results.files._fill", refuse)
    with pytest.raises(StoreError, match="No space left on device"):
        worker(lab, run, told=Told()).work()
    assert Claims(lab.results).running() == {}
    assert lab.store.read(run.id) is None


def test_a_backbone_that_is_kept_changes_no_bit(lab: Lab) -> None:
    runs = [lab.run("method=full_ft", f"seed={seed}", "recipe.max_steps=2") for seed in (1, 2)]
    alone = lab.beside("alone")
    worker(lab, *runs, told=Told()).work()
    for run in runs:
        alone.execute(run)
        assert lab.trained(run) == alone.trained(run)


@pytest.mark.parametrize(
    ("error", "failure", "reason"),
    [
        (
            torch.OutOfMemoryError(OUT_OF_MEMORY),
            Failure(kind="out_of_memory", step=3, steps=40),
            f"out of memory at step 3 of 40: {OUT_OF_MEMORY}",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            Failure(kind="out_of_memory", step=3, steps=40),
            "out of memory at step 3 of 40: [enforce fail] DefaultCPUAllocator",
        ),
        (MemoryError(), Failure(kind="out_of_memory", step=3, steps=40), "out of memory at step 3 of 40: MemoryError"),
        (DivergenceError("nan"), Failure(kind="diverged", step=3, steps=40), "DivergenceError: nan"),
        (KeyError("a\nb"), Failure(kind="error", step=3, steps=40), "KeyError: 'a"),
    ],
)
def test_the_kind_of_a_failure_is_told(error: Exception, failure: Failure, reason: str) -> None:
    place = Place()
    place.passed(2, 40)
    found, words = failure_of(error, place)
    assert found == failure
    assert words.startswith(reason)


def test_memory_that_does_not_suffice_is_a_reason(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr("runners.gradients.Gradients._add_up", greedy)
    record = lab.execute(lab.run(*LORA))
    assert record.failure == Failure(kind="out_of_memory", step=1)
    assert record.reason == f"out of memory in the first step: a single sample does not fit: {OUT_OF_MEMORY}"


def test_workers_share_the_cores_out_where_runs_do_not_say(lab: Lab) -> None:
    own, free = lab.run(*LORA), lab.run(*LORA, "seed=2", "machine.threads=null")
    todo = with_threads(WorkList.of([own, free], store=lab.store, rules=Rules()), 3)
    assert {run.id: run.machine.threads for run in todo.runs} == {own.id: 1, free.id: 3}
    assert todo.before == {own.id: None, free.id: None}
    assert with_threads(todo, None) is todo


def test_there_is_a_worker_for_every_gpu_that_may_be_used(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Local(workers=None, attempts=3, timeout_s=None, stale_after_s=90.0)
    runs = [lab.run(*LORA, f"seed={seed}") for seed in range(1, 6)]
    todo = WorkList.of(runs, store=lab.store, rules=Rules())
    assert launcher.workers_for(todo) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (launcher.workers_for(todo), visible_gpus(todo)) == (3, ("0", "1", "2"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert (launcher.workers_for(todo), visible_gpus(todo)) == (2, ("2", "5"))
    assert replace(launcher, workers=9).workers_for(todo) == 5  # no more than there are runs
    on_cpu = WorkList.of([lab.run(*LORA, "machine.device=cpu")], store=lab.store, rules=Rules())
    assert visible_gpus(on_cpu) == ()
