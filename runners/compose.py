"""Composing configs and turning them into objects, with errors a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runners.machine import ROOT

CONF = ROOT / "conf"
# what decides a number; machine, logger and launcher do not
SCIENTIFIC = ("method", "backbone", "dataset", "recipe", "budget", "seed")


class ConfigError(ValueError):
    """A command line or config that cannot be meant."""


def compose(name: str, overrides: Sequence[str], *, conf: Path = CONF) -> DictConfig:
    """Return the composed config, with Hydra's own node under ``hydra``.

    Raises:
        ConfigError: for an unknown group, choice or key, or a malformed override; the message lists what is valid.
    """
    return compose_many(name, [overrides], conf=conf)[0]


def compose_many(name: str, jobs: Sequence[Sequence[str]], *, conf: Path = CONF) -> list[DictConfig]:
    """Return one composed config per list of overrides; errors as of :func:`compose`."""
    GlobalHydra.instance().clear()
    configs = []
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        for overrides in jobs:
            try:
                config = hydra.compose(name, list(overrides), return_hydra_config=True)
            except OverrideParseException as error:
                raise ConfigError(
                    f"cannot read the override {error.override!r}; write group=choice or group.field=value"
                ) from error
            except (HydraException, OmegaConfBaseException) as error:
                raise ConfigError(_explain(name, overrides, error, conf=conf)) from error
            assert isinstance(config, DictConfig)
            configs.append(config)
    return configs


def instantiate(config: DictConfig) -> dict[str, Any]:
    """Return the objects of every top-level group that names a class, nested plain data otherwise.

    Raises:
        ConfigError: if a value is missing or a class refuses its fields.
    """
    objects: dict[str, Any] = {}
    for key in config:
        if key != "hydra" and OmegaConf.is_dict(config[key]):
            objects[str(key)] = _instantiate(config, str(key))
    return objects


def plain(node: Any) -> Any:
    """Return a config node as plain Python data."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def scientific(config: DictConfig) -> dict[str, Any]:
    """Return the part of a config that decides its numbers."""
    return {name: plain(config[name]) for name in SCIENTIFIC}


def choices(config: DictConfig) -> dict[str, str]:
    """Return the chosen file of each group."""
    return {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}


def _instantiate(config: DictConfig, key: str) -> Any:
    missing = OmegaConf.missing_keys(config[key])
    if missing:
        raise ConfigError(f"{key} needs {', '.join(f'{name}=…' for name in sorted(missing))}")
    try:
        return hydra.utils.instantiate(config[key], _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and isinstance(cause, InstantiationException):
            cause = cause.__cause__
        raise ConfigError(f"{key}: {cause or error}") from error


def _explain(name: str, overrides: Sequence[str], error: Exception, *, conf: Path) -> str:
    """Return what is wrong with the first override that cannot be meant, with what is valid in its place."""
    groups = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in conf.iterdir() if path.is_dir()}
    top = {str(key) for key in OmegaConf.load(conf / f"{name}.yaml") if key != "defaults"}
    used = {str(next(iter(entry))) for entry in OmegaConf.load(conf / f"{name}.yaml").get("defaults", []) if entry != "_self_"}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_add() or override.is_delete() or key.startswith("hydra"):
            continue
        if key in groups and override.value() not in groups[key]:
            return f"{key}={override.value()}: there is no such {key}; valid: {', '.join(groups[key])}"
        head, *rest = key.split(".")
        if not rest and key not in top and key not in used and override.package is None:
            return f"unknown key {key!r}; valid: {', '.join(sorted(used | top))}"
        if rest and (problem := _unknown_field(name, key, overrides)):
            return problem
    return str(error).replace("\n", " ")


def _unknown_field(name: str, key: str, overrides: Sequence[str]) -> str | None:
    """Return what is wrong with a dotted key, or None; composes without any dotted override."""
    node: Any = hydra.compose(name, [one for one in overrides if "." not in one.partition("=")[0]])
    path = key.split(".")
    for depth, part in enumerate(path):
        fields = [str(field) for field in node if field != "_target_"] if OmegaConf.is_dict(node) else []
        if part not in fields:
            parent = ".".join(path[:depth])
            near = difflib.get_close_matches(part, fields, n=1)
            hint = f"did you mean {parent}.{near[0]}? " if near else ""
            return f"unknown key {key!r}; {hint}{parent or 'the config'} has: {', '.join(fields) or 'no fields'}"
        node = node[part] if not OmegaConf.is_missing(node, part) else None
    return None
