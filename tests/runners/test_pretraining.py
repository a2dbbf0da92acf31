"""Pre-training on a folder of tiny parquet files: weights that load, and a run that resumes bit for bit."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab, Outcome

from runners.compose import compose, instantiate

Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training image of each class to train on, and test images of the first five."""
    root = tmp_path_factory.mktemp("images")
    settings = instantiate(compose("pretrain", []))
    for split, count in (("train", None), ("test", 5)):
        for dataset in settings[split].values():
            classes = list(dataset.chosen.label_names or ())
            write_split(root / dataset.chosen.path / f"{split}.parquet", classes, range(count or len(classes)))
    return root


@pytest.fixture
def pretrain(command: Command, labelled: Path, tmp_path: Path) -> Command:
    """Pre-train for four steps into the folder ``tmp_path/name``."""

    def call(name: str, *extra: str) -> Outcome:
        return command(
            "pretrain",
            f"machine.data_root={labelled}",
            "machine.threads=1",
            "recipe.max_steps=4",
            "recipe.batch_size=8",
            "recipe.warmup_steps=2",
            f"output={tmp_path / name / 'weights.safetensors'}",
            *extra,
        )

    return call


def test_the_weights_it_writes_serve_as_a_backbone(pretrain: Command, tmp_path: Path, lab: Lab) -> None:
    outcome = pretrain("one")
    assert outcome.code == 0, outcome.err
    weights = tmp_path / "one" / "weights.safetensors"
    assert f"weights: {weights}" in outcome.out
    settings = instantiate(compose("pretrain", []))
    report = json.loads(weights.with_suffix(".json").read_text())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert report["sha256"] == digest
    assert report["bytes"] == weights.stat().st_size
    assert set(report["zero_shot_top1"]) == {dataset.name for dataset in settings["test"].values()}
    assert all(0 <= score <= 1 for score in report["zero_shot_top1"].values())
    assert report["images"] == sum(len(dataset.classes) for dataset in settings["train"].values())
    assert report["classes"] < report["images"]  # some words are classes of both
    assert report["recipe"]["max_steps"] == 4
    assert sorted(path.name for path in weights.parent.iterdir()) == ["weights.json", "weights.safetensors"]

    run = lab.run("method=lora", "method.rank=1", f"backbone.checkpoint={weights}", "recipe.max_steps=1")
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert record.provenance.weights_digest == digest

    cut = weights.with_name("cut.safetensors")
    cut.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    broken = lab.execute(lab.run("method=lora", "method.rank=1", f"backbone.checkpoint={cut}"))
    assert broken.status == "failed"
    assert (broken.reason or "").startswith("WeightsError: backbone micro_clip: ")
    assert str(cut) in (broken.reason or "")


def test_interrupted_and_continued_equals_undisturbed(
    pretrain: Command, tmp_path: Path, interrupt_after: Callable[[int], None]
) -> None:
    assert pretrain("undisturbed").code == 0
    interrupt_after(2)
    stopped = pretrain("continued")
    assert stopped.code == 130
    assert "stopped after step 2 of 4" in stopped.err
    assert [path.name for path in (tmp_path / "continued").iterdir()] == ["weights.checkpoint"]
    assert pretrain("continued").code == 0
    first, second = (tmp_path / name / "weights.safetensors" for name in ("undisturbed", "continued"))
    assert first.read_bytes() == second.read_bytes()
    assert not (tmp_path / "continued" / "weights.checkpoint").exists()


def test_a_checkpoint_of_other_settings_is_not_continued(
    pretrain: Command, interrupt_after: Callable[[int], None]
) -> None:
    interrupt_after(2)
    assert pretrain("one").code == 130
    assert pretrain("one", "seed=2").code == 130  # from its first step, so interrupted after two again
    assert pretrain("one", "seed=2").code == 0  # continues after them


def test_missing_images_are_named(command: Command, tmp_path: Path) -> None:
    outcome = command("pretrain", f"machine.data_root={tmp_path}", f"output={tmp_path / 'w.safetensors'}")
    assert outcome.code == 2
    assert outcome.err.startswith("error: there is no file ")
    assert "cifar100" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_missing_test_images_are_found_before_training(
    pretrain: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.trainer.train", lambda *_, **__: pytest.fail("it trained"))
    outcome = pretrain(
        "one",
        "dataset@test.cifar10=image_folder",
        "test.cifar10.sources.folder.path=nowhere",
        "test.cifar10.classes=[a,b]",
    )
    assert outcome.code == 2
    assert "nowhere" in outcome.err


def test_training_that_diverges_leaves_no_weights(pretrain: Command, tmp_path: Path) -> None:
    outcome = pretrain("one", "recipe.learning_rate=1e30", "recipe.warmup_steps=0")
    assert outcome.code == 1
    assert "error: the loss is nan" in outcome.err or "error: the loss is inf" in outcome.err
    assert not (tmp_path / "one" / "weights.safetensors").exists()


def write_split(file: Path, classes: list[str], labels: range) -> None:
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=classes)})
    rows = {"image": [{"bytes": png(label), "path": None} for label in labels], "label": list(labels)}
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(file)


def png(label: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (2 * label, 255 - label, 7 * label % 256)).save(buffer, "PNG")
    return buffer.getvalue()
