"""A YAML states every field of its class, so that no default in Python can decide a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from configs import CONF, build, load, names
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

GROUPS = ("method", "backbone", "recipe", "budget", "machine")
FILES = [(group, name) for group in GROUPS for name in names(group) if "_target_" in load(group, name)]
COMPLETE = [file for file in FILES if not OmegaConf.missing_keys(load(*file))]  # the others ask for a value


def nodes(config: DictConfig) -> Iterator[DictConfig]:
    if "_target_" in config:
        yield config
    for key in config:
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            yield from nodes(config[key])


def test_every_group_has_files() -> None:
    assert {group for group, _ in FILES} == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), FILES, ids="/".join)
def test_states_every_field_and_no_other(group: str, name: str) -> None:
    for node in nodes(load(group, name)):
        cls = get_class(node._target_)
        assert dataclasses.is_dataclass(cls)
        assert set(node) - {"_target_"} == {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize(("group", "name"), COMPLETE, ids="/".join)
def test_builds_equal_and_hashable_objects(group: str, name: str) -> None:
    one, other = build(group, name), build(group, name)
    assert one == other
    assert dataclasses.is_dataclass(one)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.anything = 1


@pytest.mark.parametrize("file", sorted(CONF.rglob("*")), ids=lambda path: str(path.relative_to(CONF)))
def test_conf_holds_plain_data_only(file: Path) -> None:
    if file.is_dir():
        return
    assert file.suffix == ".yaml"
    assert "${" not in file.read_text(encoding="utf-8")
