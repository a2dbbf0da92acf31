"""What a run leaves behind when all goes well."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas
import pytest
import torch
from lab import ROOT, STEPS, Lab, Outcome

from randlora.storage import load_adapter
from results.record import Record, Timing
from runners.plan import Run
from runners.trainer import TrainingClock

Finished = tuple[Lab, Run, Record]


def test_the_record_on_disk_is_the_one_returned(finished: Finished) -> None:
    lab, run, record = finished
    assert record.status == "ok", record.reason
    assert lab.store.read(run.id) == record
    assert record.id == run.id
    assert record.key == run.key
    assert record.config == run.config
    assert sorted(path.name for path in lab.file(run, "").iterdir()) == [
        "adapter.safetensors",
        "metrics.jsonl",
        "predictions.parquet",
        "record.json",
    ]


def test_checks_and_counts(finished: Finished) -> None:
    lab, run, record = finished
    assert record.checks == {"frozen_unchanged": True, "count_as_predicted": True}
    counts = record.parameters
    assert counts is not None
    assert counts.predicted == counts.adapter == run.solution.reached > 0
    assert counts.head == 0
    model = run.backbone.build(root=ROOT, device=torch.device("cpu"))
    assert counts.frozen == sum(parameter.numel() for parameter in model.parameters())
    assert counts.saved_bytes == lab.file(run, "adapter.safetensors").stat().st_size
    assert counts.budget_asked is counts.budget_reached is counts.budget_note is None


def test_the_metric_is_that_of_the_predictions(finished: Finished) -> None:
    lab, run, record = finished
    frame = pandas.read_parquet(lab.file(run, "predictions.parquet"))
    assert len(frame) == 60
    assert record.metrics == {"test/top1": (frame["label"] == frame["predicted"]).mean()}
    assert frame["probability"].between(0, 1).all()


def test_memory_is_stated_by_phase_or_not_at_all(finished: Finished) -> None:
    memory = finished[2].memory
    assert memory is not None
    assert memory.device == "cpu"
    for phase in (memory.load, memory.train, memory.evaluation):
        if not peak_can_be_reset():
            assert phase is None
        else:
            assert phase is not None
            assert phase.allocated_bytes is phase.reserved_bytes is None
            assert phase.process_peak_bytes is not None
            assert phase.process_peak_bytes > 2**26  # torch alone is larger


def test_times_add_up(finished: Finished) -> None:
    timing = finished[2].timing
    assert timing is not None
    assert timing.steps == STEPS
    assert timing.step_median_s is not None
    assert timing.step_median_s > 0
    parts = (timing.load_s, timing.train_s, timing.eval_s)
    assert all(part is not None and part > 0 for part in parts)
    assert sum(part or 0.0 for part in parts) < (timing.total_s or 0.0)


def test_deciles_of_a_few_steps_lie_among_them() -> None:
    clock = TrainingClock()
    for step_s in (9.0, 9.0, 9.0, 0.1, 1.6):
        clock.add(step_s=step_s, wait_s=0.0)
    found = Timing(**clock.summary())
    assert found.step_p10_s == pytest.approx(0.25)
    assert found.step_p90_s == pytest.approx(1.45)


def test_the_embedded_images_are_used_and_named(lab: Lab) -> None:
    run = lab.run("method=lora", "method.rank=1", "recipe.max_steps=1", "machine.data_root=null")
    record = lab.execute(run)
    stated = json.loads((ROOT / "assets/data/pets3/meta.json").read_text())
    assert record.provenance.data_digests == stated["sha256"]
    for split, digest in stated["sha256"].items():
        file = ROOT / f"assets/data/pets3/{split}.parquet"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert len(lab.store.read_predictions(run.id)) == stated["splits"]["test"]


def test_provenance_names_data_machine_and_command(finished: Finished) -> None:
    lab, _, record = finished
    source = record.provenance
    assert source.data_digests == {
        split: hashlib.sha256((lab.images / f"assets/data/pets3/{split}.parquet").read_bytes()).hexdigest()
        for split in ("train", "test")
    }
    assert source.weights_digest is None  # random weights
    assert source.device.startswith("cpu: ")
    assert source.threads == 1
    assert source.precision == "float32"
    assert source.versions["torch"] == torch.__version__
    assert shlex.split(source.command)[0] == "randlora"


def test_a_record_states_when_the_run_started_not_when_it_ended(lab: Lab) -> None:
    def slowly(done: int, total: int, values: Mapping[str, float]) -> None:
        time.sleep(1.1 * (done == 1))

    before = datetime.now(UTC)
    record = lab.execute(lab.run("method=lora", "method.rank=1", "recipe.max_steps=2"), on_step=slowly)
    started = datetime.fromisoformat(record.provenance.started_at)
    assert -1 < (started - before).total_seconds() < 1.1  # stated in whole seconds


def test_a_saved_adapter_gives_the_predictions_again(finished: Finished) -> None:
    """The file, the seed and the random base weights of the run's seed are all that is needed."""
    from randlora.seeds import seed_for
    from randlora.tasks.base import Vocabulary
    from runners.evaluate import predict

    lab, run, record = finished
    device = torch.device("cpu")
    model = run.backbone.build(root=ROOT, device=device, seed=seed_for(run.seed, "weights"))
    words = run.dataset
    vocabulary = Vocabulary(classes=words.classes, prompt=words.prompt, templates=words.templates)
    objective = run.recipe.task.build(backbone=run.backbone, model=model, vocabulary=vocabulary, seed=run.seed)
    adaptation, _ = load_adapter(lab.file(run, "adapter.safetensors"), model)
    adaptation.merge()
    mean, std = run.backbone.image_statistics(model)
    split = run.dataset.load(part="test", size=run.backbone.image_size(model), root=lab.images)
    found = predict(objective, split, mean=mean, std=std, batch_size=500, device=device)
    assert found.top1() == record.metrics["test/top1"]
    assert found.frame().equals(lab.store.read_predictions(run.id))


def test_weights_are_kept_only_where_asked(lab: Lab) -> None:
    run = lab.run("method=lora", "method.rank=1", "recipe.max_steps=1", "machine.keep_weights=false")
    record = lab.execute(run)
    assert not lab.file(run, "adapter.safetensors").exists()
    assert record.parameters is not None
    assert (record.parameters.saved_bytes or 0) > 4 * record.parameters.adapter


def test_validation_images_come_from_the_training_split(lab: Lab) -> None:
    run = lab.run(
        "method=lora",
        "method.rank=1",
        "recipe.max_steps=1",
        "recipe.evaluate_on=validation",
        "recipe.validation_per_class=5",
    )
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert list(record.metrics) == ["validation/top1"]
    assert list(record.provenance.data_digests) == ["train"]
    labels = lab.store.read_predictions(run.id)["label"]
    assert labels.value_counts().to_dict() == {0: 5, 1: 5, 2: 5}


def test_a_run_recorded_before_is_not_run_again(
    lab: Lab, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["run", *lab.overrides("method=lora", "method.rank=1", "recipe.max_steps=2")]
    monkeypatch.setattr(sys, "argv", ["randlora", *arguments])
    first = command(*arguments)
    assert first.code == 0
    assert "test/top1" in first.out
    path = Path(first.out.splitlines()[-1].removeprefix("record: "))
    record = Record.from_json(path.read_text())
    assert shlex.split(record.provenance.command) == ["randlora", *arguments]

    again = command(*arguments)
    assert again.code == 0
    assert again.out == first.out
    assert "recorded before" in again.err
    assert Record.from_json(path.read_text()) == record

    rerun = command(*arguments, "rerun=true")
    assert rerun.code == 0
    assert "recorded before" not in rerun.err
    new = Record.from_json(path.read_text())
    assert new.metrics == record.metrics
    assert new.timing != record.timing


def test_an_interrupted_run_says_so_and_continues(
    lab: Lab, command: Callable[..., Outcome], interrupt_after: Callable[[int], None], finished: Finished
) -> None:
    first, run, _ = finished
    interrupt_after(2)
    stopped = command("run", *lab.overrides("method=randlora"))
    assert stopped.code == 130
    assert f"stopped after step 2 of {STEPS}" in stopped.err
    assert stopped.out == ""
    assert lab.store.read(run.id) is None
    assert command("run", *lab.overrides("method=randlora")).code == 0
    assert lab.trained(run) == first.trained(run)


def peak_can_be_reset() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
