"""randlora budget: the size every method needs for an equal number of trainable parameters on a backbone.

Needs neither weights nor a GPU.

Examples:
  randlora budget backbone=micro_clip match=lora rank=4
  randlora budget backbone=clip_vit_b32 match=lora rank=32
  randlora budget backbone=clip_vit_b32 parameters=1000000 format=csv
"""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from runners.compose import CONF, ConfigError, instantiate
from runners.formats import FORMATS, check_format, rows_text

CONFIG = "budget"


def main(config: DictConfig) -> int:
    """Print the table; return 0."""
    from runners.plan import skeleton_targets

    check_format(config.format, FORMATS)
    backbone = instantiate(config)["backbone"]
    try:
        targets = skeleton_targets(backbone)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    methods = {path.stem: _method(path.stem) for path in sorted((CONF / "method").glob("*.yaml"))}
    asked, text = _asked(config, methods, targets)
    rows = [
        {"method": name, **_row(method, targets, asked)} for name, method in methods.items() if method.trains_backbone
    ]
    print(rows_text(rows, config.format))
    if config.format == "text":
        print(f"\n{backbone.name}: {len(targets.sites)} sites, {sum(targets.parameters.values()):,} parameters; {text}")
    return 0


def _asked(config: DictConfig, methods: dict[str, Any], targets: Any) -> tuple[int, str]:
    from runners.plan import check_sites

    if config.parameters is not None:
        return _whole(config.parameters), f"budget {_whole(config.parameters):,}"
    if config.match not in methods:
        raise ConfigError(f"match={config.match}: there is no such method; valid: {', '.join(methods)}")
    reference = methods[config.match]
    if not reference.trains_backbone:
        raise ConfigError(f"match={config.match}: it trains nothing in the backbone, so there is no budget to match")
    try:
        if config.rank is not None:
            reference = reference.resized(config.rank)
        check_sites(reference, targets)
        asked = reference.count(targets)
    except ValueError as error:
        raise ConfigError(f"match={config.match} rank={config.rank}: {error}") from error
    return asked, f"budget {asked:,}, as {config.match}" + (
        f" of {reference.size_field} {config.rank}" if config.rank else ""
    )


def _whole(value: Any) -> int:
    """Return a number of parameters, 1e6 for a million included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
        raise ConfigError(f"parameters={value}: valid: a whole number of 1 or more")
    return int(value)


def _row(method: Any, targets: Any, asked: int) -> dict[str, Any]:
    from randlora.budgets import fit

    field = method.size_field
    try:
        solution = fit(method, targets, asked=asked)
    except ValueError as error:
        return {"size": None, "parameters": None, "of budget": None, "note": str(error)}
    size = f"{field} {getattr(solution.method, field)}" if field else None
    share = f"{100 * solution.reached / asked:.1f} %"
    return {"size": size, "parameters": solution.reached, "of budget": share, "note": solution.note}


def _method(name: str) -> Any:
    return hydra.utils.instantiate(OmegaConf.load(CONF / "method" / f"{name}.yaml"), _convert_="all")
