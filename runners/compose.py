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
        raise ConfigError(f"{key} needs {', '.join(f'{key}.{name}=…' for name in sorted(missing))}")
    try:
        return hydra.utils.instantiate(config[key], _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and isinstance(cause, InstantiationException):
            cause = cause.__cause__
        raise ConfigError(f"{key}: {cause or error}") from error


def _explain(name: str, overrides: Sequence[str], error: Exception, *, conf: Path) -> str:
    """Return Hydra's message with the valid keys added where it leaves them out."""
    text = str(error).splitlines()[0]
    parser = OverridesParser.create()
    groups = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in conf.iterdir() if path.is_dir()}
    top = sorted(str(key) for key in OmegaConf.load(conf / f"{name}.yaml") if key != "defaults")
    for override in overrides:
        parsed = parser.parse_overrides([override])[0]
        key = parsed.key_or_group
        head, *rest = key.split(".")
        if not rest and key in groups and parsed.value() not in groups[key] and f"{key}/" in text + str(error):
            return f"{key}={parsed.value()}: there is no such {key}; valid: {', '.join(groups[key])}"
        if not rest and key not in groups and key not in top and key.partition("@")[0] not in groups:
            return f"unknown key {key!r}; valid: {', '.join(sorted({*groups, *top}))}"
        if rest and repr(rest[-1]) in str(error) and head in groups:
            return f"unknown key {key!r}; {_fields(name, head, overrides, near=rest[-1])}"
    return str(error).replace("\n", " ")


def _fields(name: str, group: str, overrides: Sequence[str], *, near: str) -> str:
    kept = [one for one in overrides if "." not in one.partition("=")[0]]
    config = hydra.compose(name, kept)
    fields = [str(field) for field in config.get(group) or {} if field != "_target_"]
    guess = difflib.get_close_matches(near, fields, n=1)
    hint = f"did you mean {group}.{guess[0]}? " if guess else ""
    return f"{hint}{group} has: {', '.join(fields) or 'no fields'}"
