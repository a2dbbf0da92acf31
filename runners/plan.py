"""From a composed config to a run that is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from results.record import Key, canonical, run_id_of_parts
from runners.compose import SCIENTIFIC, Composed, ConfigError, check_seed, deciding, instantiate_part

if TYPE_CHECKING:
    from randlora.adapter import Targets
    from randlora.backbones.base import Backbone, ImageBackbone, LanguageBackbone
    from randlora.data.images import ImageDataset
    from randlora.data.questions import LanguageDataset
    from randlora.fitting import Solution
    from randlora.recipe import Recipe
    from randlora.text_recipe import TextRecipe
    from randlora.training import Training
    from runners.loggers import Logger
    from runners.machine import Machine

KEYED = ("method", "backbone", "dataset", "recipe", "budget")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, composed and checked: what it is called, its objects, and the method at its budget."""

    id: str
    key: Key
    config: Mapping[str, Any]
    backbone: Backbone
    dataset: ImageDataset | LanguageDataset
    recipe: Training
    solution: Solution
    seed: int
    machine: Machine
    logger: Logger


@dataclass(frozen=True, kw_only=True)
class ImageRun(Run):
    """A run on images."""

    backbone: ImageBackbone
    dataset: ImageDataset
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class QuestionRun(Run):
    """A run of a language model on questions."""

    backbone: LanguageBackbone
    dataset: LanguageDataset
    recipe: TextRecipe


class Planner:
    """Identifies and checks runs; what the configs of a table share is converted, built and checked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[int, ...]], tuple[tuple[Any, ...], Any]] = {}

    def identify(self, composed: Composed) -> tuple[str, Key]:
        """Return the id and the key of a run, without making any object of it.

        Raises:
            ConfigError: if the seed is not a whole number.
        """
        nodes = composed.nodes
        check_seed(nodes)
        texts = {name: self._once("text", canonical, self._plain(composed, name)) for name in SCIENTIFIC}
        parts = {group: _part(group, composed.chosen[group], composed.job) for group in KEYED}
        return run_id_of_parts(texts), Key(**parts, seed=int(nodes["seed"]))

    def check(self, composed: Composed) -> Run:
        """Return the run of a composed config; see :func:`check_run`."""
        id, key = self.identify(composed)
        groups = [name for name in composed.nodes if OmegaConf.is_dict(composed.nodes[name])]
        objects = {name: self._object(composed, name) for name in groups}
        method, recipe, backbone = objects["method"], objects["recipe"], objects["backbone"]
        dataset = objects["dataset"]
        try:
            self._once("device", lambda machine: machine.torch_device(), objects["machine"])
            recipe.task.check_backbone(backbone)
            kind = _kind(recipe, dataset)
            method.check_task(has_head=recipe.task.has_head)
            recipe = recipe.for_dataset(dataset.name, epochs=dataset.epochs)
            if kind is ImageRun:
                _check_validation(dataset, recipe)
            solution = self._once("solution", _solve, objects["budget"], method, backbone)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return kind(
            id=id,
            key=key,
            config={name: self._plain(composed, name) for name in SCIENTIFIC},
            backbone=backbone,
            dataset=dataset,
            recipe=recipe,
            solution=solution,
            seed=int(composed.nodes["seed"]),
            machine=objects["machine"],
            logger=objects["logger"],
        )

    def _plain(self, composed: Composed, name: str) -> Any:
        return self._once("plain", deciding, composed.nodes[name])

    def _object(self, composed: Composed, name: str) -> Any:
        return self._once(f"object {name}", lambda node: instantiate_part(name, node), composed.nodes[name])

    def _once(self, what: str, make: Callable[..., Any], *things: Any) -> Any:
        """Return what ``make`` returns for these very things, made at the first call."""
        key = (what, tuple(map(id, things)))
        if key not in self._known:
            # the things are kept, so that no other can have their identity
            self._known[key] = (things, make(*things))
        return self._known[key][1]


def identify(config: DictConfig) -> tuple[str, Key]:
    """Return the id and the key of a composed config, without making any object of it.

    Raises:
        ConfigError: if the seed is not a whole number.
    """
    return Planner().identify(Composed.of("config", config))


def check_run(config: DictConfig) -> Run:
    """Return the run of a composed config.

    Builds the backbone without weights, so that targets, ranks and the budget are checked in seconds.

    Raises:
        ConfigError: for a field out of range, a target pattern that matches nothing, a rank that does not fit, a
            budget out of reach, a task that does not go with the method or the backbone, a number of epochs that
            nobody states, or a device that is not there.
    """
    return Planner().check(Composed.of("config", config))


@cache
def skeleton_targets(backbone: Backbone) -> Targets:
    """Return the sites and scope of a backbone, from its shapes alone."""
    return backbone.targets_of(backbone.skeleton())


@cache
def skeleton_bytes(backbone: Backbone) -> int:
    """Return the size of the weights of a backbone, in bytes, from its shapes alone."""
    tensors = backbone.skeleton().state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def check_sites(method: object, targets: Targets) -> None:
    """Raise ValueError where an adapter method does not fit a site."""
    from randlora.adapter import AdapterMethod
    from randlora.inject import check_site

    if isinstance(method, AdapterMethod):
        for site in targets.sites:
            check_site(method, site)


def _kind(recipe: Any, dataset: Any) -> type[ImageRun] | type[QuestionRun]:
    """Return the kind of run that a recipe and a data set make; ValueError where they do not go together."""
    from randlora.data.questions import LanguageDataset
    from randlora.text_recipe import TextRecipe

    asks, holds = isinstance(recipe, TextRecipe), isinstance(dataset, LanguageDataset)
    if asks and not holds:
        raise ValueError(
            f"dataset {dataset.name} holds images and the recipe trains on questions; choose another dataset (randlora "
            "data status lists them), or a recipe for images"
        )
    if holds and not asks:
        raise ValueError(
            f"dataset {dataset.name} holds questions and the recipe trains on images; choose a recipe of a language "
            "model, or a dataset of images (randlora data status lists them)"
        )
    return QuestionRun if asks else ImageRun


def _check_validation(dataset: ImageDataset, recipe: Recipe) -> None:
    """Raise ValueError where a run is to be judged on a validation part that the data set does not have."""
    if recipe.evaluate_on == "validation" and recipe.validation_per_class == 0 and not dataset.splits.has_validation:
        raise ValueError(
            f"recipe.evaluate_on=validation, but dataset {dataset.name} has no validation part; set "
            "dataset.splits.hold_out=0.1, or hold some images of every class out with recipe.validation_per_class=…"
        )


def _solve(budget: Any, method: Any, backbone: Backbone) -> Solution:
    targets = skeleton_targets(backbone)
    solution: Solution = budget.solve(method, targets)
    check_sites(solution.method, targets)
    backbone.check_method(solution.method)
    return solution


def _part(group: str, choice: str, overrides: Sequence[str]) -> str:
    own = sorted(
        override.removeprefix(f"{group}.")
        for override in overrides
        if override.startswith(f"{group}.") or f"@{group}." in override.partition("=")[0]
    )
    return " ".join([choice, *own])
