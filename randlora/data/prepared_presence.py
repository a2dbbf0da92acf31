"""Whether what a source reads is on this machine already, told without opening it and without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from randlora.data.prepared_stamp import local_files

Presence = Literal["here", "cached", "partly cached", "missing"]


def presence(source: Mapping[str, Any], root: Path) -> Presence:
    """Return where a source's files are: in a local folder, in the caches of the Hugging Face libraries, or nowhere.

    ``source`` are its fields as its YAML states them.

    A download that was broken off is ``partly cached``; whether one that looks whole is so, only preparing tells. A
    folder that several datasets share (a source whose path is ``root`` itself) counts as missing.
    """
    id = source.get("id")
    path = local_files(source.get("path") or id, root)
    if path is not None and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        return "here"
    return "missing" if id is None else _cached(id, source.get("revision"))


def _cached(id: str, revision: str | None) -> Presence:
    from huggingface_hub import constants

    owner, _, name = id.partition("/")
    downloaded = Path(constants.HF_HUB_CACHE) / f"datasets--{owner}--{name}"
    if any((downloaded / "blobs").glob("*.incomplete")):
        return "partly cached"
    snapshots = downloaded / "snapshots"
    wanted = [snapshots / revision] if revision and (snapshots / revision).is_dir() else snapshots.glob("*")
    if any(entry for snapshot in wanted for entry in snapshot.rglob("*") if _holds_data(entry)):
        return "cached"
    converted = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    return "cached" if any((Path(converted) / f"{owner}___{name}").glob("**/*.arrow")) else "missing"


def _holds_data(entry: Path) -> bool:
    return entry.suffix in (".parquet", ".tar", ".zip", ".arrow")
