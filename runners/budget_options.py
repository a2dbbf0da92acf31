"""What the user of `randlora budget` asked for: the target, the methods, the method to match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from runners.compose import CONF, ConfigError, plain

if TYPE_CHECKING:
    from randlora.adapter import Method, Targets
    from randlora.budgets import SizedBudget

ASKED = ("parameters", "percent", "bytes", "step_s", "memory", "match")


def asked_target(config: DictConfig) -> str:
    """Return which target the user gave; matching a method is meant where none is.

    Raises:
        ConfigError: for more than one.
    """
    typed = {str(override).partition("=")[0] for override in config.hydra.overrides.task}
    given = [name for name in ASKED if config[name] is not None and (name != "match" or name in typed)]
    if config.rank is not None and given not in ([], ["match"]):
        raise ConfigError(f"rank={config.rank} is the rank of the method to match; leave it out with {given[0]}=")
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(f'{name}=' for name in given)}: give one target; {_targets_text()}")
    if not given and config.match is None:
        raise ConfigError(f"no target; {_targets_text()}")
    return given[0] if given else "match"


def method_names(config: DictConfig) -> Sequence[str]:
    """Return the methods asked for, else all of the suite.

    Raises:
        ConfigError: for one that is not there, as a method to show or to match.
    """
    every = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    asked = plain(config.methods)
    if asked is None:
        asked = every
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not names:
        raise ConfigError(f"methods={asked}: valid: a list of {', '.join(every)}")
    for field, name in (("match", config.match), *(("methods", name) for name in names)):
        if name not in every and name is not None:
            near = difflib.get_close_matches(str(name), every, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ConfigError(f"{field}={name}: there is no such method; {hint}valid: {', '.join(every)}")
    return names


def that_train(config: DictConfig, names: Sequence[str], methods: Mapping[str, Method]) -> Sequence[str]:
    """Return the methods to show: those that train the backbone."""
    idle = [name for name in names if not methods[name].trains_backbone]
    if idle and config.methods is not None:
        raise ConfigError(f"methods={idle[0]}: it trains nothing in the backbone, so it has no size")
    return [name for name in names if name not in idle]


def stated_budget(config: DictConfig, asked: str) -> SizedBudget:
    """Return a budget that is a number.

    Raises:
        ConfigError: if it is none, or out of range.
    """
    from randlora.budgets import BytesBudget, ParameterBudget, PercentBudget

    try:
        if asked == "parameters":
            return ParameterBudget(parameters=_whole(config.parameters), allow_over=False)
        if asked == "percent":
            return PercentBudget(percent=config.percent, allow_over=False)
        return BytesBudget(bytes=config.bytes, allow_over=False)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def reference_method(config: DictConfig, reference: Method, targets: Targets) -> Method:
    """Return the method to match, at its rank.

    Raises:
        ConfigError: if it trains nothing, or its rank does not fit.
    """
    from runners.plan import check_sites

    if not reference.trains_backbone:
        raise ConfigError(f"match={config.match}: it trains nothing in the backbone, so there is no budget to match")
    try:
        if config.rank is not None:
            reference = reference.resized(config.rank)
        check_sites(reference, targets)
    except ValueError as error:
        raise ConfigError(f"match={config.match} rank={config.rank}: {error}") from error
    return reference


def methods_of(names: Iterable[str]) -> dict[str, Method]:
    """Return methods as their files state them."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return {
            name: hydra.utils.instantiate(hydra.compose(f"method/{name}").method, _convert_="all") for name in names
        }


def _targets_text() -> str:
    return "valid: parameters=1e6, percent=0.7, bytes=4MB, step_s=0.2, memory=500MB, or match=METHOD rank=32"


def _whole(value: Any) -> int:
    """Return a number of parameters, 1e6 for a million included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
        raise ConfigError(f"parameters={value}: valid: a whole number of 1 or more")
    return int(value)
