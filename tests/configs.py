"""Reading the suite's YAML files one by one, as Hydra composes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from randlora.adapter import AdapterMethod, Method

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def load(group: str, name: str) -> DictConfig:
    """Return one file of a group with its own defaults list applied."""
    if "defaults" not in OmegaConf.load(CONF / group / f"{name}.yaml"):
        config = OmegaConf.load(CONF / group / f"{name}.yaml")
    else:
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose(f"{group}/{name}")[group]
    assert isinstance(config, DictConfig)
    return config


def build(group: str, name: str) -> Any:
    return hydra.utils.instantiate(load(group, name), _convert_="all")


METHODS: dict[str, Method] = {name: build("method", name) for name in names("method")}
ADAPTER_METHODS = {name: method for name, method in METHODS.items() if isinstance(method, AdapterMethod)}
