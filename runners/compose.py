"""Composing configs and turning them into objects, with errors a user can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runners.explain import explain
from runners.machine import ROOT

CONF = ROOT / "conf"
# what decides a number; machine, logger and launcher do not
SCIENTIFIC = ("method", "backbone", "dataset", "recipe", "budget", "seed")


# a value of a field that exists, and nothing of a config group: recipe.shots=4
_PLAIN_VALUE = re.compile(r"\w+(\.\w+)+=")


class ConfigError(ValueError):
    """A command line or config that cannot be meant."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A config in parts: one node per top-level key. Cells of a table that share a part share its node.

    ``job`` are the overrides it was composed from, ``chosen`` the choice of each group.
    """

    name: str
    nodes: Mapping[str, Any]
    job: tuple[str, ...]
    chosen: Mapping[str, str]

    @classmethod
    def of(cls, name: str, config: DictConfig) -> Composed:
        """Return a whole config, as :func:`compose` gives it, in parts."""
        job = tuple(str(override) for override in config.hydra.overrides.task)
        return cls(name=name, nodes=_nodes(config), job=job, chosen=choices(config))

    def whole(self) -> DictConfig:
        """Return the config as one, with the overrides and the choices under ``hydra``; it is a copy."""
        hydra_part = {"overrides": {"task": list(self.job)}, "runtime": {"choices": dict(self.chosen)}}
        whole = OmegaConf.create({**self.nodes, "hydra": hydra_part})
        OmegaConf.set_struct(whole, True)
        return whole


def compose(name: str, overrides: Sequence[str], *, several: Sequence[str] = (), conf: Path = CONF) -> DictConfig:
    """Return the composed config, with the overrides and the choices under ``hydra``.

    Args:
        name: the verb's file.
        overrides: what was typed.
        several: groups that may be given a list of choices, composed with the first of them; the overrides keep all.
        conf: folder of the groups.

    Raises:
        ConfigError: for an unknown group, choice or key, or a malformed override; the message lists what is valid.
    """
    job = tuple(map(str, overrides))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        whole = _compose_part(name, tuple(_with_one_choice(one, several) for one in job), conf=conf)
    composed = Composed(name=name, nodes=_nodes(whole), job=job, chosen=choices(whole))
    return _checked(composed, conf=conf).whole()


def compose_many(name: str, jobs: Sequence[Sequence[str]], *, conf: Path = CONF) -> list[DictConfig]:
    """Return one composed config per list of overrides; errors as of :func:`compose`."""
    return [one.whole() for one in compose_parts(name, jobs, conf=conf)]


def compose_parts(name: str, jobs: Sequence[Sequence[str]], *, conf: Path = CONF) -> list[Composed]:
    """Return one config in parts per list of overrides; errors as of :func:`compose`.

    Hydra takes some 0.1 s per config. Top-level groups do not refer to each other, so each is composed once per
    distinct choice, and values are set in copies of it; a table of hundreds of cells takes as long as its axes have
    labels. What is composed is kept as long as no file below ``conf`` changes.
    """
    GlobalHydra.instance().clear()
    files = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(conf.rglob("*.yaml")))
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        parts = _parts(name, conf, files)
        return [parts.assemble(tuple(map(str, job))) for job in jobs]


class _Parts:
    """Composes each part once per distinct set of its own overrides, and puts parts together."""

    def __init__(self, name: str, *, conf: Path) -> None:
        self._name, self._conf = name, conf
        base = _compose_part(name, (), conf=conf)
        self._defaults, self._choices = _nodes(base), choices(base)
        self._known: dict[tuple[str, tuple[str, ...]], tuple[dict[str, Any], dict[str, str]]] = {}

    def assemble(self, job: tuple[str, ...]) -> Composed:
        """Return the config of the overrides of one cell."""
        overrides: dict[str, list[str]] = {}
        for override in job:
            overrides.setdefault(_top_level(override), []).append(override)
        nodes, chosen = dict(self._defaults), dict(self._choices)
        for key, own in overrides.items():
            theirs, made = self._part(key, tuple(own))
            if key not in theirs:
                nodes.pop(key, None)
            nodes |= {k: node for k, node in theirs.items() if k == key or k not in self._defaults}
            chosen = {k: v for k, v in chosen.items() if k in made or k not in self._choices}
            chosen |= {k: v for k, v in made.items() if self._choices.get(k) != v}
        return _checked(Composed(name=self._name, nodes=nodes, job=job, chosen=chosen), conf=self._conf)

    def _part(self, key: str, own: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
        if (key, own) not in self._known:
            values = tuple(one for one in own if _PLAIN_VALUE.match(one))
            others = tuple(one for one in own if one not in values)
            made = self._changed(key, others, values) if values else None
            if made is None:
                part = _compose_part(self._name, own, conf=self._conf)
                made = _nodes(part), choices(part)
            self._known[key, own] = made
        return self._known[key, own]

    def _changed(
        self, key: str, others: tuple[str, ...], values: tuple[str, ...]
    ) -> tuple[dict[str, Any], dict[str, str]] | None:
        """Return the part of ``others`` with values set in a copy, as Hydra sets them; None where it would refuse."""
        nodes, chosen = self._part(key, others) if others else (self._defaults, self._choices)
        if not OmegaConf.is_dict(nodes.get(key)):
            return None
        root = OmegaConf.create({key: nodes[key]})
        OmegaConf.set_struct(root, True)
        try:
            for override in OverridesParser.create().parse_overrides(list(values)):
                if override.is_sweep_override():
                    return None
                OmegaConf.update(root, override.key_or_group, override.value(), merge=True)
        except (HydraException, OmegaConfBaseException, ValueError):
            return None  # composed as a whole, for the error
        return {**nodes, key: root[key]}, chosen


@lru_cache(maxsize=8)
def _parts(name: str, conf: Path, files: tuple[tuple[str, int, int], ...]) -> _Parts:
    return _Parts(name, conf=conf)


def _nodes(config: DictConfig) -> dict[str, Any]:
    return {str(k): "???" if OmegaConf.is_missing(config, k) else config[k] for k in config if k != "hydra"}


def _checked(composed: Composed, *, conf: Path) -> Composed:
    if any(override.startswith("~") for override in composed.job):
        left_out = sorted(_top_keys(composed.name, conf=conf) - set(composed.nodes))
        if left_out:
            raise ConfigError(f"{', '.join(left_out)}: cannot be left out")
    return composed


def _top_keys(name: str, *, conf: Path) -> set[str]:
    """Return the top-level keys of a verb's config: its own fields, and where its groups go."""
    primary = primary_config(name, conf=conf)
    groups = [str(next(iter(entry))) for entry in primary.get("defaults", []) if entry != "_self_"]
    return {_top_level(group) for group in groups} | {str(key) for key in primary if key != "defaults"}


def _compose_part(name: str, overrides: tuple[str, ...], *, conf: Path) -> DictConfig:
    try:
        return hydra.compose(name, list(overrides), return_hydra_config=True)
    except OverrideParseException as error:
        raise ConfigError(
            f"cannot read the override {error.override!r}; write group=choice or group.field=value"
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a name in place of an index
        primary = primary_config(name, conf=conf)
        raise ConfigError(explain(name, overrides, error, primary=primary, conf=conf)) from error


def _with_one_choice(override: str, groups: Sequence[str]) -> str:
    """Return ``dataset=a`` for ``dataset=[a,b]`` where ``dataset`` is one of the groups, else the override."""
    group, _, choice = override.partition("=")
    if group not in groups or not choice.startswith("["):
        return override
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except OverrideParseException:
        return override  # composing says what is wrong with it
    chosen = parsed.value()
    return f"{group}={chosen[0]}" if isinstance(chosen, list) and chosen else override


def _top_level(override: str) -> str:
    """Return the top-level key that an override changes: ``budget`` for ``method@budget.reference=vera``."""
    key = override.partition("=")[0].lstrip("+~")
    return key.partition("@")[2].partition(".")[0] or key.partition(".")[0]


def instantiate(config: DictConfig) -> dict[str, Any]:
    """Return the objects of every top-level group that names a class, nested plain data otherwise.

    Raises:
        ConfigError: if a value is missing or a class refuses its fields.
    """
    objects: dict[str, Any] = {}
    for key in config:
        if key != "hydra" and OmegaConf.is_dict(config[key]):
            objects[str(key)] = instantiate_part(str(key), config[key])
    return objects


def instantiate_part(key: str, node: DictConfig) -> Any:
    """Return the object of one top-level group; errors as of :func:`instantiate`."""
    missing = OmegaConf.missing_keys(node)
    if missing:
        raise ConfigError(f"{key} needs {', '.join(f'{name}=…' for name in sorted(missing))}")
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and isinstance(cause, InstantiationException):
            cause = cause.__cause__
        misfit = "a value does not fit its field: " if isinstance(cause, TypeError | AttributeError) else ""
        raise ConfigError(f"{key}: {misfit}{cause or error}".replace("\n", " ")) from error


def primary_config(name: str, *, conf: Path = CONF) -> DictConfig:
    """Return a verb's own file, without its groups."""
    config = OmegaConf.load(conf / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    return config


def check_seed(config: DictConfig | Mapping[str, Any]) -> None:
    """Raise ConfigError unless the config's seed is a whole number."""
    seed = config["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed={seed}: valid: a whole number")


def plain(node: Any) -> Any:
    """Return a config node as plain Python data."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def scientific(config: DictConfig) -> dict[str, Any]:
    """Return the part of a config that decides its numbers."""
    return {name: deciding(config[name]) for name in SCIENTIFIC}


def deciding(node: Any) -> Any:
    """Return what of a group decides numbers, as plain data: of its ``sources`` only the one that ``source`` names."""
    data = plain(node)
    if isinstance(data, Mapping) and isinstance(data.get("sources"), Mapping) and data.get("source") in data["sources"]:
        return {**data, "sources": {data["source"]: data["sources"][data["source"]]}}
    return data


def choices(config: DictConfig) -> dict[str, str]:
    """Return the chosen file of each group."""
    return {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}
