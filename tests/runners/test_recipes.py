"""Every kind of task and every method from end to end."""

from __future__ import annotations

import json

import pytest
from lab import STEPS, Lab
from safetensors import safe_open

from runners.compose import CONF, ConfigError
from runners.plan import skeleton_targets

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_end_to_end(lab: Lab, method: str) -> None:
    recipe = "micro_linear_head" if method == "linear_probe" else "micro_clip"
    targets = ["backbone.targets=[mlp.c_fc.weight]"] if method == "peft" else []  # it cannot take fused attention
    run = lab.run(f"method={method}", f"recipe={recipe}", *targets)
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert record.checks == {"frozen_unchanged": True, "count_as_predicted": True}
    assert 0 < record.metrics["test/top1"] < 1
    assert len(lab.store.read_predictions(run.id)) == 60


def test_zero_shot_trains_nothing(lab: Lab) -> None:
    run = lab.run("method=zero_shot")
    record = lab.execute(run)
    assert record.parameters is not None
    assert record.parameters.adapter == record.parameters.head == 0
    assert record.parameters.saved_bytes is None
    assert record.memory is not None
    assert record.memory.train is None
    assert record.timing is not None
    assert record.timing.steps == 0
    assert record.timing.step_median_s is None
    assert not lab.file(run, "adapter.safetensors").exists()
    assert not lab.file(run, "metrics.jsonl").exists()
    other = lab.beside("other")
    assert other.execute(run).metrics == record.metrics


def test_a_probe_trains_its_head_alone(lab: Lab) -> None:
    run = lab.run("method=linear_probe", "recipe=micro_linear_head")
    record = lab.execute(run)
    assert record.parameters is not None
    width = run.backbone.feature_size(run.backbone.skeleton())
    assert (record.parameters.adapter, record.parameters.head) == (0, 3 * width)
    with safe_open(lab.file(run, "adapter.safetensors"), framework="pt") as file:
        assert list(file.keys()) == ["head/linear.weight"]


def test_a_linear_head_is_trained_beside_a_method(lab: Lab) -> None:
    run = lab.run("method=lora", "method.rank=1", "recipe=micro_linear_head", "backbone=micro_clip_vision")
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert record.parameters is not None
    assert record.parameters.head > 0
    assert record.parameters.adapter == run.solution.reached > 0
    with safe_open(lab.file(run, "adapter.safetensors"), framework="pt") as file:
        assert "head/linear.weight" in set(file.keys())


@pytest.mark.parametrize("method", ["lora", "zero_shot"])
def test_the_image_tower_runs_under_a_frozen_head(lab: Lab, method: str) -> None:
    extra = ["method.rank=1"] if method == "lora" else []
    run = lab.run(f"method={method}", *extra, "recipe=clip_vision", "backbone=micro_clip_vision")
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert record.parameters is not None
    assert record.parameters.head == 0
    assert all(site.name.startswith("visual.") for site in skeleton_targets(run.backbone).sites)


@pytest.mark.parametrize("extra", [[], ["recipe.task.temperature=raw"], ["recipe.task.train_prompts=templates"]])
def test_images_are_contrasted_with_the_texts_of_the_batch(lab: Lab, extra: list[str]) -> None:
    run = lab.run("method=lora", "method.rank=1", "recipe=clip", *extra)
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert record.timing is not None
    assert record.timing.steps == STEPS


def test_training_lowers_the_loss(lab: Lab) -> None:
    run = lab.run("method=full_ft", "recipe.max_steps=12", "recipe.learning_rate=3e-4", "recipe.crop=none")
    lab.execute(run)
    losses = [json.loads(line)["loss"] for line in lab.file(run, "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_a_probe_and_a_zero_shot_model_need_their_kind_of_recipe(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="needs a recipe that trains a head"):
        lab.run("method=linear_probe")
    with pytest.raises(ConfigError, match="needs a recipe without a head"):
        lab.run("method=zero_shot", "recipe=micro_linear_head")
