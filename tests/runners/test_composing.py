"""Composed configs: as Hydra composes them, with an identity that follows what decides a number."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from runners.compose import CONF, ConfigError, choices, compose, compose_many, compose_parts, plain, scientific
from runners.machine import EXPERIMENTS
from runners.plan import check_run, identify
from runners.tables import plan_table

JOBS = {
    "nothing": ("config", []),
    "group": ("config", ["method=lora"]),
    "groups and fields": (
        "config",
        ["method=vera", "dataset=mini_mnist", "recipe=clip", "recipe.shots=4", "method.rank=8", "seed=3"],
    ),
    "field before group": ("config", ["method.rank=8", "method=vera"]),
    "nested group": ("config", ["budget=match_lora", "method@budget.reference=vera", "budget.reference.rank=64"]),
    "nested field": ("config", ["recipe.task.negatives=batch", "recipe.betas=[0.8,0.9]"]),
    "null and text": ("config", ["recipe.shots=null", "recipe.fraction=0.5", "backbone.checkpoint=null"]),
    "missing value": ("config", ["budget=parameters"]),
    "machine": ("config", ["machine.threads=2", "logger=wandb", "rerun=true"]),
    "addition": ("config", ["+note=hello", "+recipe.extra=1"]),
    "twice": ("config", ["seed=1", "seed=2", "method=lora", "method=nola"]),
    "verb": ("sweep", ["table=demo", "launcher.workers=2", "fail_fast=true"]),
    "verb with a missing value": ("sweep", []),
    "deletion": ("pretrain", ["~train.caltech101", "recipe.max_steps=3"]),
    "group deletion": ("pretrain", ["~dataset@test.caltech101"]),
    "package": ("pretrain", ["dataset@train.cifar100=mini_mnist"]),
}
SCIENCE = {
    "method": ["method=lora"],
    "method field": ["method.rank=7"],
    "backbone": ["backbone=micro_clip_vision"],
    "backbone field": ["backbone.checkpoint=null"],
    "dataset": ["dataset=mini_mnist"],
    "dataset field": ["dataset.version=2"],
    "recipe": ["recipe=clip"],
    "recipe field": ["recipe.learning_rate=2e-3"],
    "task field": ["recipe.task.temperature=raw"],
    "budget": ["budget=match_lora"],
    "seed": ["seed=2"],
}
REST = (
    ["machine.threads=1"],
    ["machine.device=cpu", "machine.precision=bfloat16"],
    ["machine.results=elsewhere", "machine.keep_weights=false"],
    ["logger=wandb", "logger.project=other"],
    ["rerun=true"],
)


@pytest.mark.parametrize("job", JOBS)
def test_parts_composed_apart_are_what_hydra_composes(job: str) -> None:
    name, overrides = JOBS[job]
    (ours,), theirs = compose_many(name, [overrides]), whole(name, overrides)
    assert compose(name, overrides) == ours
    assert without_hydra(ours) == without_hydra(theirs)
    assert choices(ours) == choices(theirs)
    if name == "config":
        assert scientific(ours) == scientific(theirs)
        assert identify(ours) == identify(theirs)


def test_many_at_once_do_not_mix() -> None:
    jobs = [overrides for name, overrides in JOBS.values() if name == "config"]
    together = compose_many("config", [*jobs, *reversed(jobs)])
    apart = [compose("config", job) for job in jobs]
    assert together == [*apart, *reversed(apart)]


def test_a_composed_config_takes_no_new_keys() -> None:
    config = compose("config", [])
    with pytest.raises(Exception, match="lr"):
        config.recipe.lr = 1


@pytest.mark.parametrize("change", SCIENCE)
def test_the_id_changes_with_what_decides_a_number(change: str) -> None:
    base, other = identify(compose("config", [])), identify(compose("config", SCIENCE[change]))
    assert other[0] != base[0]
    assert other[1] != base[1]


@pytest.mark.parametrize("overrides", REST)
def test_the_id_does_not_change_with_what_does_not(overrides: list[str]) -> None:
    assert identify(compose("config", overrides)) == identify(compose("config", []))


def test_the_id_does_not_depend_on_the_order_or_spelling_of_overrides() -> None:
    one = ["method=lora", "recipe.learning_rate=1e-2", "method.rank=3", "method.alpha=2.0"]
    other = ["method.alpha=2.0", "method.rank=3", "recipe.learning_rate=0.01", "method=lora"]
    first, second = (identify(compose("config", job)) for job in (one, other))
    assert first[0] == second[0]
    assert first[1].method == second[1].method == "lora alpha=2.0 rank=3"


def test_keys_read_as_a_person_would_say() -> None:
    job = ["method=nola", "budget=match_lora", "method@budget.reference=vera", "budget.reference.rank=4", "seed=3"]
    key = identify(compose("config", job))[1]
    assert (key.method, key.dataset, key.recipe, key.seed) == ("nola", "mini_eurosat", "micro_clip", 3)
    assert key.budget == "match_lora method@budget.reference=vera reference.rank=4"


def test_cells_of_a_table_are_what_is_composed_one_by_one() -> None:
    planned = plan_table(
        "clip_vit_h14", where={"dataset": ["Cars"], "data": ["2 shots", "50%"], "method": ["NoLA", "FT"]}
    )
    assert len(planned.planned) == 2 * 2
    for one in planned.planned:
        assert (one.id, one.key) == identify(compose("config", one.cell.overrides))


def test_a_value_set_in_a_copy_leaves_the_original_alone() -> None:
    jobs = [["recipe=clip", "recipe.task.temperature=raw"], ["recipe=clip"], ["recipe=clip", "recipe.betas=[0.1,0.2]"]]
    raw, own, betas = compose_parts("config", jobs)
    assert [plain(one.nodes["recipe"])["task"]["temperature"] for one in (raw, own, betas)] == [
        "raw",
        "exponential",
        "exponential",
    ]
    assert plain(betas.nodes["recipe"])["betas"] == [0.1, 0.2]
    assert own.nodes["dataset"] is betas.nodes["dataset"]


@pytest.mark.parametrize("override", ["recipe.shots=1,2", "recipe.shot=1", "recipe.shots=[1", "recipe.betas.x=1"])
def test_what_hydra_refuses_is_refused_among_many_too(override: str) -> None:
    with pytest.raises(ConfigError) as alone:
        compose("config", ["recipe=clip", override])
    with pytest.raises(ConfigError) as among:
        compose_many("config", [["recipe=clip"], ["recipe=clip", override]])
    assert str(among.value) == str(alone.value)


def test_a_recipe_that_takes_epochs_from_the_data_set_needs_one_that_states_them() -> None:
    job = ["recipe=clip", "recipe.shots=null", "dataset=mini_mnist"]
    with pytest.raises(ConfigError, match="dataset mini_mnist states no number of epochs"):
        check_run(compose("config", job))
    assert check_run(compose("config", [*job, "dataset.epochs=3"])).recipe.epochs == 3
    assert check_run(compose("config", [*job, "recipe.epochs_by_dataset=false"])).recipe.epochs == 10
    assert check_run(compose("config", ["recipe=clip", "recipe.shots=2", "dataset=mini_mnist"])).recipe.epochs == 10


def test_a_mistake_in_a_table_names_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (EXPERIMENTS / "demo.yaml").read_text().replace("dataset=mini_eurosat", "dataset=mini_eurosta")
    (tmp_path / "typo.yaml").write_text(text)
    monkeypatch.setattr("runners.tables.EXPERIMENTS", tmp_path)
    with pytest.raises(ConfigError, match=r"^table typo: dataset=mini_eurosta: there is no such dataset; valid: "):
        plan_table("typo")


def whole(name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, overrides, return_hydra_config=True)


def without_hydra(config: DictConfig) -> dict[str, object]:
    return {str(key): plain_or_missing(config, str(key)) for key in config if key != "hydra"}


def plain_or_missing(config: DictConfig, key: str) -> object:
    return "???" if OmegaConf.is_missing(config, key) else plain(config[key])
