"""Backbones of other kinds than CLIP in runs: what goes with which task."""

from __future__ import annotations

import pytest
from lab import STEPS, Lab

from runners.compose import ConfigError, compose
from runners.plan import check_run

DINO = (
    "backbone=dinov2_vit_b14",
    "backbone.pretrained=null",
    "backbone.pixels=28",
    "+backbone.overrides={depth:2,embed_dim:24,num_heads:2}",
)


@pytest.mark.parametrize("method", ["randlora", "linear_probe", "full_ft"])
def test_a_small_dinov2_runs_from_end_to_end(method: str, lab: Lab) -> None:
    size = ["method.rank=5"] if method == "randlora" else []
    run = lab.run(*DINO, f"method={method}", *size, "recipe=micro_linear_head")
    record = lab.execute(run)
    assert record.status == "ok", record.reason
    assert record.checks == {"frozen_unchanged": True, "count_as_predicted": True}
    assert record.parameters is not None
    assert record.timing is not None
    assert (record.parameters.head, record.timing.steps) == (3 * 24, STEPS)
    assert len(lab.store.read_predictions(run.id)) == 60


def test_images_without_texts_need_a_recipe_with_a_head() -> None:
    for recipe, task in (("clip", "ImageText"), ("clip_vision", "FrozenTextHead")):
        words = (
            f"backbone dinov2_vit_b14 has no text tower, which the task {task} needs; use a recipe with a linear head"
        )
        with pytest.raises(ConfigError, match=words):
            check_run(compose("config", [*DINO, f"recipe={recipe}"]))
    assert check_run(
        compose("config", ["backbone=dinov2_vit_b14", "recipe=linear_head", "method=lora"])
    ).solution.reached


@pytest.mark.parametrize("backbone", ["qwen2_0_5b", "phi3_mini", "llama3_8b"])
@pytest.mark.parametrize("recipe", ["clip", "linear_head"])
def test_a_language_model_is_refused_by_image_tasks(backbone: str, recipe: str) -> None:
    words = f"backbone {backbone} is a language model; the task .* needs an image backbone"
    with pytest.raises(ConfigError, match=words):
        check_run(compose("config", [f"backbone={backbone}", f"recipe={recipe}"]))
