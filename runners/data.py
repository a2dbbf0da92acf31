"""randlora data: which images are here, and having them prepared.

Prepared images are decoded and resized once and stored as memory-mapped arrays that every run reads. A run prepares
what it needs; preparing ahead is for long downloads, and for machines whose jobs have no network.

  randlora data status    every dataset: prepared, here or missing, its sizes beside the paper's, disk space, licence,
                          source, and what to type. Needs no network and reads no image. A source counts as verified
                          once a preparation from it has succeeded on this machine.
  randlora data prepare   download, decode, check the number of images, classes and labels, and store. Start it again
                          after an interruption: downloads and complete parts are kept. After an error nothing is left.
  randlora data verify    read what is prepared and compare every digest; exit code 1 where something differs.

size= is the side in pixels; left out, it is 224 in status and prepare, and verify takes every size at hand.

Examples:
  randlora data status
  randlora data status dataset=[pets3,mini_mnist] format=json
  randlora data prepare dataset=pets3 size=32
  randlora data prepare dataset=[pets3,mini_mnist] workers=8
  randlora data prepare table=demo                    what a table needs, at the sizes of its backbones
  randlora data prepare dataset=image_folder dataset.sources.folder.path=/data/birds "dataset.classes=[finch,great tit]"
  randlora data verify dataset=pets3
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runners.compose import CONF, ConfigError, compose, instantiate_part
from runners.data_status import USUAL_SIZE, prepared_folders, status_of
from runners.formats import FORMATS, check_format, rows_text, size_text
from runners.machine import Machine

if TYPE_CHECKING:
    from randlora.data.images import ImageDataset
    from randlora.data.prepared import Prepared
    from randlora.data.prepared_build import Event

CONFIG = "data"
# the words that follow the verb
ACTIONS = ("status", "prepare", "verify")


def main(config: DictConfig) -> int:
    """Carry out an action; return 0, 1 where verify finds a difference, or 2 where some of several sets failed."""
    if config.action not in ACTIONS:
        raise ConfigError(f"action={config.action}: valid: {', '.join(ACTIONS)}")
    check_format(config.format, FORMATS)
    for field in ("size", "workers"):
        value = config[field]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{field}={value}: valid: a whole number of 1 or more, or null")
    return {"status": status, "prepare": prepare, "verify": verify}[config.action](config)


def status(config: DictConfig) -> int:
    """Print the table of all datasets or of those asked for; return 0."""
    _refuse(config, "table", "workers")
    machine = instantiate_part("machine", config.machine)
    size = config.size or USUAL_SIZE
    names = _names(config)
    lines = [
        status_of(name, _description(name, config if names else None), machine=machine, size=size)
        for name in names or every_dataset()
    ]
    if config.format != "text":
        print(rows_text([line.plain() for line in lines], config.format))
        return 0
    print(rows_text([line.counted(size) for line in lines], "text"))
    print("\n" + rows_text([line.obtained() for line in lines], "text"))
    prepared = sum(size in line.sizes for line in lines)
    missing = sum(line.disk_bytes or 0 for line in lines if size not in line.sizes)
    print(f"\n{prepared} of {len(lines)} prepared at {size} px; the others would take {size_text(missing)} where known")
    return 0


def prepare(config: DictConfig) -> int:
    """Prepare datasets one after another; return 0, or 2 if some of several failed."""
    from randlora.data.errors import DataError

    machine = instantiate_part("machine", config.machine)
    jobs = _jobs(config)
    failed = []
    for dataset, size in jobs:
        try:
            _prepare(dataset, size, machine=machine, workers=config.workers)
        except DataError as error:
            if len(jobs) == 1:
                raise
            failed.append(dataset.name)
            print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"{len(jobs) - len(failed)} prepared, {len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
    return 2 if failed else 0


def verify(config: DictConfig) -> int:
    """Compare prepared datasets with their manifests; return 0, or 1 where something differs."""
    _refuse(config, "table", "workers")
    asked = _names(config)
    problems: list[str] = []
    rows = []
    for name in asked or every_dataset():
        found = _prepared(config, name)
        if not found and asked:
            at = f" at {config.size} px" if config.size else ""
            raise ConfigError(f"{name} is not prepared{at}; randlora data prepare dataset={name} prepares it")
        for one in found:
            for part in one.parts:
                differences = one.problems(part)
                problems += differences
                result = "differs" if differences else "as prepared"
                row = {"dataset": name, "size": one.manifest.size, "part": part}
                stored = one.manifest.parts[part]
                rows.append({**row, "images": stored.images, "result": result, "digest": stored.digest[:12]})
    print(rows_text(rows, config.format) if rows or config.format != "text" else "nothing is prepared")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def every_dataset() -> list[str]:
    """Return the names of all files in ``conf/dataset``."""
    return sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))


def _prepare(dataset: ImageDataset, size: int, *, machine: Machine, workers: int | None) -> None:
    from randlora.data.prepared import PreparedStore
    from runners.data_progress import decoding_bars, part_text

    store = PreparedStore(folder=machine.prepared_path)
    decoded: list[int] = []
    began = time.perf_counter()
    with decoding_bars() as show:

        def listen(event: Event) -> None:
            if event.kind == "done" and event.manifest is not None:
                decoded.append(event.manifest.images)
            show(event)

        found = store.prepare(dataset, size, root=machine.data_path, on_progress=listen, workers=workers)
    seconds = time.perf_counter() - began
    for part, stored in found.manifest.parts.items():
        print(f"{dataset.name} {part}: {part_text(stored)}")
    how = f"{sum(decoded) / seconds:,.0f} images/s" if decoded else "prepared before"
    print(f"{found.folder} ({size_text(found.manifest.bytes)}, {how})")


def _prepared(config: DictConfig, name: str) -> list[Prepared]:
    """Return what is prepared of a dataset as its file states it now, at the size asked for or at all sizes."""
    from randlora.data.prepared import Prepared

    machine = instantiate_part("machine", config.machine)
    folders = prepared_folders(_description(name, config if _names(config) else None), machine.prepared_path)
    return [
        Prepared(folder=folder, manifest=manifest)
        for folder, manifest in folders
        if config.size in (None, manifest.size)
    ]


def _jobs(config: DictConfig) -> list[tuple[ImageDataset, int]]:
    """Return the datasets to prepare with their sizes.

    Raises:
        ConfigError: unless either datasets or a table is given.
    """
    names = _names(config)
    if bool(names) == (config.table is not None):
        raise ConfigError(f"give dataset=… or table=…, one of the two; datasets: {', '.join(every_dataset())}")
    if config.table is None:
        size = config.size or USUAL_SIZE
        return [(instantiate_part("dataset", _compose(name, config).dataset), size) for name in names]
    return _of_table(config)


def _of_table(config: DictConfig) -> list[tuple[ImageDataset, int]]:
    """Return the datasets of a table at the image sizes of its backbones, each pair once."""
    from randlora.backbones.base import ImageBackbone
    from runners.tables import plan_table

    if config.size is not None:
        raise ConfigError(f"size={config.size}: leave it out with table=, the backbones say which sizes are needed")
    planned = plan_table(config.table, forwarded=_forwarded(config))
    # the cells of a table share the nodes of their parts
    pairs = {(id(one.nodes["dataset"]), id(one.nodes["backbone"])): one.nodes for one in planned.configs}
    sizes: dict[int, int] = {}
    jobs: dict[tuple[str, int], tuple[ImageDataset, int]] = {}
    for (_, backbone_id), nodes in pairs.items():
        dataset = instantiate_part("dataset", nodes["dataset"])
        if backbone_id not in sizes:
            backbone = instantiate_part("backbone", nodes["backbone"])
            if not isinstance(backbone, ImageBackbone):
                raise ConfigError(f"table {config.table}: {backbone.name} takes no images; there is nothing to prepare")
            sizes[backbone_id] = backbone.image_size(backbone.skeleton())
        jobs[dataset.identity, sizes[backbone_id]] = (dataset, sizes[backbone_id])
    return list(jobs.values())


def _names(config: DictConfig) -> list[str]:
    """Return the datasets that were asked for, in that order, each once; none if it was not said."""
    asked: list[str] = []
    for override in _overrides(config):
        if override.key_or_group == "dataset" and not override.is_delete():
            value = override.value()
            asked = [str(name) for name in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(asked))


def _forwarded(config: DictConfig) -> list[str]:
    return [one.input_line for one in _overrides(config) if one.key_or_group.partition(".")[0] == "machine"]


def _overrides(config: DictConfig) -> list[Override]:
    lines = [str(override) for override in config.hydra.overrides.task]
    return OverridesParser.create().parse_overrides(lines)


def _compose(name: str, config: DictConfig) -> DictConfig:
    """Return the config with one of several datasets; fields of the dataset that were given count for each."""
    others = [one.input_line for one in _overrides(config) if one.key_or_group != "dataset"]
    return compose(CONFIG, [f"dataset={name}", *others])


def _description(name: str, config: DictConfig | None) -> Mapping[str, Any]:
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


def _refuse(config: DictConfig, *fields: str) -> None:
    """Raise ConfigError where a field is given that the action does not read."""
    given = [field for field in fields if config[field] is not None]
    if given:
        raise ConfigError(f"{given[0]}={config[given[0]]}: {config.action} does not read it; leave it out")
