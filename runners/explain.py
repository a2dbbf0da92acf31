"""What is wrong with a command line that Hydra could not compose, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf


def explain(name: str, overrides: Sequence[str], error: Exception, *, primary: DictConfig, conf: Path) -> str:
    """Return what is wrong with the first override that cannot be meant, with what is valid in its place.

    Hydra is initialized with ``conf``.

    Args:
        name: of the verb's config.
        overrides: that did not compose.
        error: what Hydra raised; its words where no override is to blame.
        primary: the verb's own file.
        conf: folder of the groups.
    """
    groups = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in conf.iterdir() if path.is_dir()}
    top = {str(key) for key in primary if key != "defaults"}
    used = {str(next(iter(entry))) for entry in primary.get("defaults", []) if entry != "_self_"}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_add() or override.is_delete() or key.startswith("hydra"):
            continue
        if override.is_sweep_override():
            return f"{override.input_line}: several values are several runs; start them with -m (multirun)"
        value = override.value()
        unknown = [one for one in (value if isinstance(value, list) else [value]) if one not in groups.get(key, [one])]
        if unknown:
            return f"{key}={unknown[0]}: there is no such {key}; valid: {', '.join(groups[key])}"
        rest = key.split(".")[1:]
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
        if node is None:
            parent = ".".join(path[:depth])
            return f"unknown key {key!r}: {parent} is null; set it as a whole, such as '{parent}={{{part}: …}}'"
        fields = [str(field) for field in node if field != "_target_"] if OmegaConf.is_dict(node) else []
        if part not in fields:
            parent = ".".join(path[:depth])
            near = difflib.get_close_matches(part, fields, n=1)
            hint = f"did you mean {parent}.{near[0]}? " if near else ""
            return f"unknown key {key!r}; {hint}{parent or 'the config'} has: {', '.join(fields) or 'no fields'}"
        node = node[part] if not OmegaConf.is_missing(node, part) else None
    return None
