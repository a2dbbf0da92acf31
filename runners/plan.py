"""From a composed config to a run that is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from results.record import Key, run_id
from runners.compose import ConfigError, check_seed, choices, instantiate, scientific

if TYPE_CHECKING:
    from randlora.adapter import Targets
    from randlora.backbones.base import Backbone, ImageBackbone
    from randlora.data.images import ImageDataset
    from randlora.fitting import Solution
    from randlora.recipe import Recipe
    from runners.loggers import Logger
    from runners.machine import Machine

KEYED = ("method", "backbone", "dataset", "recipe", "budget")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, composed and checked: what it is called, its objects, and the method at its budget."""

    id: str
    key: Key
    config: Mapping[str, Any]
    backbone: ImageBackbone
    dataset: ImageDataset
    recipe: Recipe
    solution: Solution
    seed: int
    machine: Machine
    logger: Logger


def identify(config: DictConfig) -> tuple[str, Key]:
    """Return the id and the key of a composed config, without making any object of it.

    Raises:
        ConfigError: if the seed is not a whole number.
    """
    check_seed(config)
    overrides = [str(override) for override in config.hydra.overrides.task]
    chosen = choices(config)
    parts = {group: _part(group, chosen[group], overrides) for group in KEYED}
    return run_id(scientific(config)), Key(**parts, seed=int(config.seed))


def check_run(config: DictConfig) -> Run:
    """Return the run of a composed config.

    Builds the backbone without weights, so that targets, ranks and the budget are checked in seconds.

    Raises:
        ConfigError: for a field out of range, a target pattern that matches nothing, a rank that does not fit, a
            budget out of reach, a task that does not go with the method or the backbone, or a device that is not there.
    """
    id, key = identify(config)
    objects = instantiate(config)
    method, recipe, backbone = objects["method"], objects["recipe"], objects["backbone"]
    try:
        objects["machine"].torch_device()
        recipe.task.check_backbone(backbone)
        method.check_task(has_head=recipe.task.has_head)
        targets = skeleton_targets(backbone)
        solution = objects["budget"].solve(method, targets)
        check_sites(solution.method, targets)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Run(
        id=id,
        key=key,
        config=scientific(config),
        backbone=backbone,
        dataset=objects["dataset"],
        recipe=recipe,
        solution=solution,
        seed=config.seed,
        machine=objects["machine"],
        logger=objects["logger"],
    )


@cache
def skeleton_targets(backbone: Backbone) -> Targets:
    """Return the sites and scope of a backbone, from its shapes alone."""
    return backbone.targets_of(backbone.skeleton())


def check_sites(method: object, targets: Targets) -> None:
    """Raise ValueError where an adapter method does not fit a site."""
    from randlora.adapter import AdapterMethod
    from randlora.inject import check_site

    if isinstance(method, AdapterMethod):
        for site in targets.sites:
            check_site(method, site)


def _part(group: str, choice: str, overrides: Sequence[str]) -> str:
    own = sorted(
        override.removeprefix(f"{group}.")
        for override in overrides
        if override.startswith(f"{group}.") or f"@{group}." in override.partition("=")[0]
    )
    return " ".join([choice, *own])
