"""What goes wrong inside a run ends in a failed record; what is wrong with the disk ends in an error, nothing lost."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import STEPS, Lab, Outcome

import results.files
import runners.checkpoint
import runners.execute
import runners.loggers
from randlora import storage
from results.files import StoreError
from results.record import Record
from runners.plan import Run

Command = Callable[..., Outcome]
LORA = ("method=lora", "method.rank=1")
FAILURES = {
    "missing weights": (["backbone.checkpoint=nowhere.safetensors"], "WeightsError: ", "nowhere.safetensors"),
    "divergence": (["recipe.learning_rate=1e30"], "DivergenceError: ", "lower the learning rate"),
    "divergence in the last step": (["recipe.learning_rate=1e30", "recipe.max_steps=1"], "DivergenceError: ", "scores"),
    "too few images": (["recipe.shots=1000"], "DataError: ", "1000 shots"),
    "missing images": (["dataset.sources.parquet.path=nowhere"], "DataError: ", "nowhere"),
    "classes that do not fit": (["dataset.sources.parquet.label_names=[a,b,c]"], "DataError: ", "label_names"),
    "a prompt that is too long": (
        [f"dataset.prompt='{'very ' * 99}large {{class}}'"],
        "ValueError: ",
        "exceeds",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_run_leaves_a_record_with_its_reason(lab: Lab, command: Command, case: str) -> None:
    extra, kind, words = FAILURES[case]
    run = lab.run(*LORA, *extra)
    outcome = command("run", *lab.overrides(*LORA, *extra))
    assert outcome.code == 1
    record = lab.store.read(run.id)
    assert record is not None
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith(kind)
    assert words in record.reason
    assert "\n" not in record.reason
    assert record.metrics == {}
    assert record.reason in outcome.out
    assert "Traceback" not in outcome.out + outcome.err
    assert "Traceback" in lab.file(run, "failure.txt").read_text()
    assert not lab.file(run, "checkpoint.pt").exists()


def test_a_truncated_weights_file_is_named(lab: Lab, finished: tuple[Lab, Run, Record], tmp_path: Path) -> None:
    first, run, _ = finished
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(first.file(run, "adapter.safetensors").read_bytes()[:1000])
    record = lab.execute(lab.run(*LORA, f"backbone.checkpoint={weights}"))
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith("WeightsError: ")
    assert "cannot be read as weights" in record.reason
    assert str(weights) in record.reason


def test_weights_of_another_model_are_named(lab: Lab, finished: tuple[Lab, Run, Record]) -> None:
    first, run, _ = finished
    adapter = first.file(run, "adapter.safetensors")
    record = lab.execute(lab.run(*LORA, f"backbone.checkpoint={adapter}"))
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith("WeightsError: ")


def test_a_failed_run_is_run_again_and_its_traceback_goes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lab.run(*LORA, "recipe.max_steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(runners.execute, "train", raising(RuntimeError("a passing trouble")))
        assert lab.execute(run).reason == "RuntimeError: a passing trouble"
    assert lab.file(run, "failure.txt").exists()
    assert lab.execute(run).status == "ok"
    assert not lab.file(run, "failure.txt").exists()


def test_a_frozen_tensor_that_changes_is_found(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    train = runners.execute.train

    def careless(objective: Any, **arguments: Any) -> Any:
        clock = train(objective, **arguments)
        objective.model.visual.conv1.weight.data[0, 0, 0, 0] += 1e-3
        return clock

    monkeypatch.setattr(runners.execute, "train", careless)
    record = lab.execute(lab.run(*LORA, "recipe.max_steps=1"))
    assert record.status == "failed"
    assert record.reason is not None
    assert "frozen tensors changed" in record.reason
    assert "visual.conv1.weight" in record.reason


def test_a_shared_basis_that_changes_is_found(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    train = runners.execute.train

    def careless(objective: Any, **arguments: Any) -> Any:
        clock = train(objective, **arguments)
        bases = [buffer for name, buffer in objective.named_buffers() if ".parametrizations." in name]
        bases[0][(0,) * bases[0].ndim] += 1
        return clock

    monkeypatch.setattr(runners.execute, "train", careless)
    record = lab.execute(lab.run("method=randlora", "recipe.max_steps=1"))
    assert record.status == "failed"
    assert "frozen tensors changed" in (record.reason or "")


@pytest.mark.parametrize("moment", ["record", "predictions", "adapter", "checkpoint", "curves"])
def test_a_full_disk_loses_nothing(
    lab: Lab, finished: tuple[Lab, Run, Record], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step before the trouble is in the checkpoint, earlier results are as they were, and no cell 'failed'."""
    earlier = lab.execute(lab.run(*LORA, "recipe.max_steps=1"))
    run = lab.run("method=randlora", "machine.checkpoint_every_steps=1")
    with monkeypatch.context() as patch:
        fill_disk(patch, moment)
        with pytest.raises(StoreError, match=r"No space left.*free some space"):
            lab.execute(run)
    assert lab.store.read(run.id) is None
    scan = lab.store.scan()
    assert scan.records == {earlier.id: earlier}
    assert scan.problems == ()

    steps: list[int] = []
    record = lab.execute(run, on_step=lambda done, total, values: steps.append(done))
    assert record.status == "ok"
    if moment in ("record", "predictions", "adapter"):
        assert steps == [STEPS]
    assert lab.trained(run) == finished[0].trained(run)


def test_a_full_disk_is_one_line_on_the_command_line(
    lab: Lab, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, "adapter")
    outcome = command("run", *lab.overrides(*LORA, "recipe.max_steps=1"))
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith("error: cannot write in ")
    assert "Traceback" not in outcome.err


def test_a_corrupt_record_is_run_again_and_kept(lab: Lab, command: Command) -> None:
    arguments = lab.overrides(*LORA, "recipe.max_steps=1")
    run = lab.run(*LORA, "recipe.max_steps=1")
    lab.execute(run)
    path = lab.file(run, "record.json")
    path.write_text(path.read_text()[:100])
    outcome = command("run", *arguments)
    assert outcome.code == 0
    assert "warning: " in outcome.err
    assert "is corrupt" in outcome.err
    assert lab.store.read(run.id) is not None
    assert len(lab.file(run, "record.corrupt-1.json").read_text()) == 100


def fill_disk(patch: pytest.MonkeyPatch, moment: str) -> None:
    full = raising(OSError(errno.ENOSPC, "No space left on device"))
    if moment == "checkpoint":
        patch.setattr(runners.checkpoint, "write_atomically", full)
    elif moment == "adapter":
        patch.setattr(storage, "write_atomically", full)
    elif moment == "curves":
        patch.setattr(runners.loggers.JsonLinesLog, "step", full)
    elif moment == "record":
        patch.setattr(results.files, "_fill", full)
    else:
        patch.setattr("pandas.DataFrame.to_parquet", full)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: object, **kwargs: object) -> Any:
        raise error

    return fail
