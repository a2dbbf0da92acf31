"""Which datasets the verb ``data`` is asked for: by name, changed on the command line, or by a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runners.compose import CONF, ConfigError, compose, instantiate_part
from runners.data_status import USUAL_SIZE

if TYPE_CHECKING:
    from randlora.data.images import ImageDataset
    from randlora.data.questions import LanguageDataset

CONFIG = "data"


def jobs_of(config: DictConfig) -> list[tuple[ImageDataset | LanguageDataset, int]]:
    """Return the datasets to prepare with their sizes; that of a language dataset means nothing.

    Raises:
        ConfigError: unless either datasets or a table is given.
    """
    names = names_of(config)
    if bool(names) == (config.table is not None):
        raise ConfigError(f"give dataset=… or table=…, one of the two; datasets: {', '.join(every_dataset())}")
    if config.table is None:
        size = config.size or USUAL_SIZE
        return [(instantiate_part("dataset", _compose(name, config).dataset), size) for name in names]
    return _of_table(config)


def names_of(config: DictConfig) -> list[str]:
    """Return the datasets that were asked for, in that order, each once; none if it was not said."""
    asked: list[str] = []
    for override in _overrides(config):
        if override.key_or_group == "dataset" and not override.is_delete():
            value = override.value()
            asked = [str(name) for name in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(asked))


def description_of(name: str, config: DictConfig | None) -> Mapping[str, Any]:
    """Return a dataset as plain data: as its file states it, or with what the command line changes."""
    if config is None:
        with (CONF / "dataset" / f"{name}.yaml").open(encoding="utf-8") as file:
            stated = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if "defaults" not in stated:
            return stated
        config = compose(CONFIG, [f"dataset={name}", "action=status"])
    else:
        config = _compose(name, config)
    described = OmegaConf.to_container(config.dataset, resolve=True)
    assert isinstance(described, dict)
    return {str(key): value for key, value in described.items()}


def every_dataset() -> list[str]:
    """Return the names of all files in ``conf/dataset``."""
    return sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))


def _of_table(config: DictConfig) -> list[tuple[ImageDataset | LanguageDataset, int]]:
    """Return the datasets of a table at the image sizes of its backbones, each pair once."""
    from randlora.backbones.base import ImageBackbone
    from randlora.data.questions import LanguageDataset
    from runners.tables import plan_table

    if config.size is not None:
        raise ConfigError(f"size={config.size}: leave it out with table=, the backbones say which sizes are needed")
    planned = plan_table(config.table, forwarded=_forwarded(config))
    # the cells of a table share the nodes of their parts
    pairs = {(id(one.nodes["dataset"]), id(one.nodes["backbone"])): one.nodes for one in planned.configs}
    sizes: dict[int, int] = {}
    jobs: dict[tuple[str, int], tuple[ImageDataset | LanguageDataset, int]] = {}
    for (_, backbone_id), nodes in pairs.items():
        dataset = instantiate_part("dataset", nodes["dataset"])
        if isinstance(dataset, LanguageDataset):
            jobs[str(dataset), USUAL_SIZE] = (dataset, USUAL_SIZE)
            continue
        if backbone_id not in sizes:
            backbone = instantiate_part("backbone", nodes["backbone"])
            if not isinstance(backbone, ImageBackbone):
                raise ConfigError(f"table {config.table}: {backbone.name} takes no images; there is nothing to prepare")
            sizes[backbone_id] = backbone.image_size(backbone.skeleton())
        jobs[dataset.identity, sizes[backbone_id]] = (dataset, sizes[backbone_id])
    return list(jobs.values())


def _forwarded(config: DictConfig) -> list[str]:
    return [one.input_line for one in _overrides(config) if one.key_or_group.partition(".")[0] == "machine"]


def _overrides(config: DictConfig) -> list[Override]:
    lines = [str(override) for override in config.hydra.overrides.task]
    return OverridesParser.create().parse_overrides(lines)


def _compose(name: str, config: DictConfig) -> DictConfig:
    """Return the config with one of several datasets; fields of the dataset that were given count for each."""
    others = [one.input_line for one in _overrides(config) if one.key_or_group != "dataset"]
    return compose(CONFIG, [f"dataset={name}", *others])
