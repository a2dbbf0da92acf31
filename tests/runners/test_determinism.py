"""Equal seeds give equal bits, whatever happened in between; batches cut in parts give equal numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lab import STEPS, Lab
from safetensors.torch import load_file

from randlora.tasks.image_text import ImageTextObjective
from results.record import Record
from runners.checkpoint import Checkpointer
from runners.interrupt import Interrupted
from runners.plan import Run

Finished = tuple[Lab, Run, Record]


def test_the_same_seed_twice_gives_the_same_bits(finished: Finished, lab: Lab) -> None:
    first, run, _ = finished
    torch.manual_seed(99)  # whatever the global generator was before
    lab.execute(lab.run("method=randlora"))
    assert lab.trained(run) == first.trained(run)


def test_another_seed_gives_other_numbers(finished: Finished, lab: Lab) -> None:
    first, run, _ = finished
    other = lab.run("method=randlora", "seed=2")
    lab.execute(other)
    adapter, predictions, _ = lab.trained(other)
    assert adapter != first.trained(run)[0]
    assert predictions != first.trained(run)[1]


@pytest.mark.parametrize("step", [1, STEPS - 1])
def test_a_run_stopped_after_a_step_continues_as_if_it_had_not(finished: Finished, lab: Lab, step: int) -> None:
    first, run, record = finished
    with pytest.raises(Interrupted, match=f"after step {step} of {STEPS}"):
        lab.execute(run, stop_after=step)
    assert lab.file(run, "checkpoint.pt").is_file()
    assert lab.store.read(run.id) is None

    steps: list[int] = []
    continued = lab.execute(run, on_step=lambda done, total, values: steps.append(done))

    assert steps == list(range(step + 1, STEPS + 1))
    assert lab.trained(run) == first.trained(run)
    assert lab.logged(run) == first.logged(run) == list(range(1, STEPS + 1))
    assert not lab.file(run, "checkpoint.pt").exists()
    assert continued.timing is not None
    assert record.timing is not None
    assert continued.timing.steps == record.timing.steps == STEPS


@pytest.mark.parametrize("method", ["randlora", "randlora_binary"])
def test_how_adapters_run_changes_no_number_and_no_identity(lab: Lab, method: str) -> None:
    usual, other = lab.run(f"method={method}"), lab.beside("other")
    lab.execute(usual)
    frugal = other.run(
        f"method={method}", "machine.execution.adapted_weights=rebuild", "machine.execution.bases=compact"
    )
    assert frugal.id == usual.id
    other.execute(frugal)
    assert other.trained(frugal) == lab.trained(usual)


def test_a_weight_formed_once_per_step_gives_what_one_per_micro_batch_gives(lab: Lab) -> None:
    parts = ("method=randlora", "recipe.micro_batch_size=1")
    usual, other = lab.run(*parts), lab.beside("other")
    lab.execute(usual)
    accumulating = other.run(*parts, "machine.execution.accumulate=true")
    other.execute(accumulating)
    expected, found = (
        load_file(place.file(run, "adapter.safetensors")) for place, run in ((lab, usual), (other, accumulating))
    )
    for name, tensor in expected.items():
        # AdamW turns a gradient of rounding errors into a whole step, so a few numbers may differ
        assert (found[name] - tensor).norm() < 0.01 * tensor.norm(), name
        assert not torch.equal(found[name], torch.zeros_like(tensor))


@pytest.mark.parametrize("method", ["full_ft", "vera"])
def test_other_methods_resume_bit_for_bit_too(lab: Lab, method: str) -> None:
    run, undisturbed = lab.run(f"method={method}"), lab.beside("undisturbed")
    undisturbed.execute(run)
    with pytest.raises(Interrupted):
        lab.execute(run, stop_after=2)
    lab.execute(run)
    assert lab.trained(run) == undisturbed.trained(run)


def test_checkpoints_on_the_way_change_nothing(finished: Finished, lab: Lab) -> None:
    first, run, _ = finished
    lab.execute(lab.run("method=randlora", "machine.checkpoint_every_steps=1"))
    assert lab.trained(run) == first.trained(run)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "of another run", "no checkpoint"])
def test_a_checkpoint_that_cannot_be_used_is_ignored(finished: Finished, lab: Lab, damage: str) -> None:
    first, run, _ = finished
    with pytest.raises(Interrupted):
        lab.execute(run, stop_after=2)
    path = lab.file(run, "checkpoint.pt")
    whole = path.read_bytes()
    if damage == "of another run":
        torch.save({**torch.load(path, weights_only=True), "run": "0" * 16}, path)
    elif damage == "no checkpoint":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"garbage" * 99, "empty": b""}[damage])

    steps: list[int] = []
    lab.execute(run, on_step=lambda done, total, values: steps.append(done))

    assert steps == list(range(1, STEPS + 1))
    assert lab.trained(run) == first.trained(run)
    assert lab.logged(run) == steps


def test_a_checkpoint_is_due_by_steps_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    by_time = Checkpointer(tmp_path / "a.pt", run="a", every_s=60.0, every_steps=None)
    by_steps = Checkpointer(tmp_path / "b.pt", run="b", every_s=60.0, every_steps=3)
    assert [step for step in range(1, 8) if by_steps.due(step)] == [3, 6]
    assert not by_time.due(3)
    now += 60.0
    assert by_time.due(4)
    by_time.save(4, {}, extra={})
    assert not by_time.due(5)


def test_nothing_of_a_checkpoint_is_left_when_it_is_cleared(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "run" / "checkpoint.pt", run="a", every_s=60.0, every_steps=None)
    checkpointer.clear()  # nothing there yet
    checkpointer.save(1, {}, extra={})
    (tmp_path / "run" / ".checkpoint.pt.123.part").write_bytes(b"killed while it wrote")
    (tmp_path / "run" / "record.json").write_text("{}")
    checkpointer.clear()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["record.json"]


def test_micro_batches_add_up_to_the_batch(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = ImageTextObjective.forward

    def counted(self: ImageTextObjective, images: torch.Tensor, labels: torch.Tensor, *, step: int) -> torch.Tensor:
        sizes.append(len(labels))
        return forward(self, images, labels, step=step)

    monkeypatch.setattr(ImageTextObjective, "forward", counted)
    shape = ("method=lora", "method.rank=2", "recipe.shots=2", "recipe.batch_size=6", "recipe.max_steps=3")
    whole, parts = lab.run(*shape), lab.run(*shape, "recipe.micro_batch_size=4")
    assert whole.id != parts.id

    lab.execute(whole)
    assert sizes == [6, 6, 6]
    lab.execute(parts)
    assert sizes[3:] == [4, 2] * 3

    assert losses(lab, parts) == pytest.approx(losses(lab, whole), rel=1e-4)
    ours, theirs = (lab.store.read_predictions(run.id)["probability"] for run in (parts, whole))
    assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), abs=1e-3)


def test_an_image_is_altered_anew_each_time_it_is_drawn(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    forward = ImageTextObjective.forward

    def kept(self: ImageTextObjective, images: torch.Tensor, labels: torch.Tensor, *, step: int) -> torch.Tensor:
        seen.append(images[labels.argsort()])
        return forward(self, images, labels, step=step)

    monkeypatch.setattr(ImageTextObjective, "forward", kept)
    shape = ("method=lora", "method.rank=1", "recipe.batch_size=3", "recipe.max_steps=2")
    lab.execute(lab.run(*shape))
    assert not torch.equal(seen[0], seen[1])
    lab.execute(lab.run(*shape, "recipe.crop=none"))
    assert torch.equal(seen[2], seen[3])


def test_the_evaluation_does_not_depend_on_its_batches(finished: Finished, lab: Lab) -> None:
    first, run, _ = finished
    lab.execute(lab.run("method=randlora", "machine.evaluation_batch_size=7"))
    ours, theirs = lab.store.read_predictions(run.id), first.store.read_predictions(run.id)
    assert list(ours["predicted"]) == list(theirs["predicted"])
    assert ours["probability"].to_numpy() == pytest.approx(theirs["probability"].to_numpy(), abs=1e-5)
    assert ours["probability"].dtype == "float32"


def losses(lab: Lab, run: Run) -> list[float]:
    return [json.loads(line)["loss"] for line in lab.file(run, "metrics.jsonl").read_text().splitlines()]
