"""What is known of every dataset without reading an image: where it is, how large, and what to do to have it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from randlora.data.errors import DataError
from randlora.data.prepared_manifest import APART, Manifest, describe, description_digest, read_manifest
from randlora.data.prepared_presence import Presence, presence
from runners.formats import size_text
from runners.machine import ROOT, Machine

PAPER = ROOT / "results" / "paper" / "image_datasets.csv"
PARTS = ("train", "validation", "test")
USUAL_SIZE = 224
FOLDER = re.compile(r"(\d+)-[0-9a-f]+")
WIDE = 36  # characters of a licence that the table has room for


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Images of each part, validation images not among those of training, and classes; None: not known."""

    train: int | None
    validation: int | None
    test: int | None
    classes: int | None

    def text(self) -> str:
        """Return them as in ``7,330 / 814 / 8,041; 196``."""
        known = ["?" if n is None else f"{n:,}" for n in (self.train, self.validation, self.test, self.classes)]
        return f"{' / '.join(known[:3])}; {known[3]}"


@dataclass(frozen=True, kw_only=True)
class Status:
    """A line of the table.

    Attributes:
        dataset: its file in ``conf/dataset``.
        title: its name for people.
        state: ``prepared``; ``here``, ``cached`` or ``partly cached`` (the files of its source are); ``missing``;
            ``damaged`` (a manifest cannot be read).
        sizes: the sizes it is prepared at.
        counts: images and classes: counted where it is prepared, else as its file states them.
        paper: those of the paper's Table 7, None for a dataset outside it.
        disk_bytes: size of its images prepared at the size asked for, None where not known.
        download_mib: what a download takes, None where not known.
        licence: of the images.
        source: where they come from.
        verified: whether that source was prepared on this machine before.
        to_do: what to type to have it prepared, empty where it is.
    """

    dataset: str
    title: str
    state: str
    sizes: tuple[int, ...]
    counts: Counts
    paper: Counts | None
    disk_bytes: int | None
    download_mib: float | None
    licence: str
    source: str
    verified: bool
    to_do: str

    def counted(self, size: int) -> dict[str, Any]:
        """Return what there is of it, as people read it."""
        paper = "-" if self.paper is None else "same" if self.paper == self.counts else self.paper.text()
        return {
            "dataset": self.dataset,
            "state": f"prepared at {', '.join(map(str, self.sizes))}" if self.sizes else self.state,
            "verified": "yes" if self.verified else "not yet verified",
            "train / val / test; classes": self.counts.text(),
            "paper's": paper,
            f"disk at {size}": "?" if self.disk_bytes is None else size_text(self.disk_bytes),
            "download": "?" if self.download_mib is None else size_text(round(self.download_mib * 2**20)),
        }

    def obtained(self) -> dict[str, Any]:
        """Return where it comes from and how to get it, as people read it."""
        return {
            "dataset": self.dataset,
            "source": self.source,
            "licence": self.licence if len(self.licence) <= WIDE else f"{self.licence[: WIDE - 1]}…",
            "to do": self.to_do or "-",
        }

    def plain(self) -> dict[str, Any]:
        """Return everything as one flat row."""
        row = {name: value for name, value in asdict(self).items() if name not in ("counts", "paper", "sizes")}
        paper = {f"paper_{name}": getattr(self.paper, name, None) for name in asdict(self.counts)}
        return {**row, "prepared_sizes": " ".join(map(str, self.sizes)), **asdict(self.counts), **paper}


def status_of(dataset: str, description: Mapping[str, Any], *, machine: Machine, size: int) -> Status:
    """Return the line of a dataset.

    Args:
        dataset: its file in ``conf/dataset``.
        description: what the file states, as plain data; ``???`` where the user has to give a value.
        machine: the folders.
        size: pixels a side that the disk space is told for.
    """
    manifests, damaged = _manifests(machine.prepared_path / description["name"])
    chosen = description["sources"][description["source"]]
    current = [one for one in manifests if _is_of(one, description)]
    states = {name: presence(fields, machine.data_path) for name, fields in description["sources"].items()}
    state = "prepared" if any(one.size == size for one in current) else states[description["source"]]
    counts = _counted(current[0]) if current else _stated(description)
    return Status(
        dataset=dataset,
        title=description["title"],
        state="damaged" if damaged and not current else state,
        sizes=tuple(sorted(one.size for one in current)),
        counts=counts,
        paper=paper_counts().get(description["title"]),
        disk_bytes=_disk(counts, size),
        download_mib=description["download_mib"],
        licence=description["licence"],
        source=_source_text(description["source"], chosen),
        verified=any(one.description["source"] == chosen for one in manifests),
        to_do="" if state == "prepared" else _to_do(dataset, description, states, size=size),
    )


def paper_counts() -> dict[str, Counts]:
    """Return the sizes of the paper's Table 7 by title, with and without what stands in brackets after it."""
    found: dict[str, Counts] = {}
    with PAPER.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            names = {"train": "train", "validation": "val", "test": "test", "classes": "classes"}
            counts = Counts(**{field: int(line[column].replace(",", "")) for field, column in names.items()})
            found |= {line["dataset"]: counts, line["dataset"].partition(" (")[0]: counts}
    return found


def prepared_folders(description: Mapping[str, Any], store: Path) -> list[tuple[Path, Manifest]]:
    """Return the folders of a dataset prepared as its description states it now, by size.

    Raises:
        DataError: if a manifest cannot be read.
    """
    found = [
        (folder, manifest)
        for folder in _folders(store / description["name"])
        if (manifest := read_manifest(folder)) is not None and _is_of(manifest, description)
    ]
    return sorted(found, key=lambda one: one[1].size)


def _folders(folder: Path) -> list[Path]:
    entries = sorted(folder.glob("*")) if folder.is_dir() else []
    return [entry for entry in entries if FOLDER.fullmatch(entry.name)]


def _manifests(folder: Path) -> tuple[list[Manifest], bool]:
    """Return what was prepared under a dataset's name in whatever version, and whether some of it cannot be read."""
    found, damaged = [], False
    for entry in _folders(folder):
        try:
            manifest = read_manifest(entry)
        except DataError:
            damaged = True
        else:
            found += [] if manifest is None else [manifest]
    return found, damaged


def _is_of(manifest: Manifest, description: Mapping[str, Any]) -> bool:
    return manifest.digest == description_digest(describe(description, size=manifest.size))


def _open_fields(node: Any, prefix: str = "") -> list[str]:
    """Return the fields that the user has to give."""
    if isinstance(node, Mapping):
        return [field for key, value in node.items() for field in _open_fields(value, f"{prefix}.{key}")]
    return [prefix.removeprefix(".")] if node == "???" else []


def _stated(description: Mapping[str, Any]) -> Counts:
    sizes = description["sizes"] or {}
    classes = description["classes"]
    parts = {part: sizes.get(part) for part in PARTS}
    return Counts(**parts, classes=None if isinstance(classes, str) else len(classes))


def _counted(manifest: Manifest) -> Counts:
    stored = manifest.parts
    parts = {part: stored[part].images if part in stored else None for part in PARTS}
    if APART in stored:
        parts["train"] = stored[APART].images
    seen = [sum(counts) > 0 for counts in zip(*(part.per_class for part in stored.values()), strict=True)]
    return Counts(**parts, classes=sum(seen))


def _disk(counts: Counts, size: int) -> int | None:
    if counts.train is None or counts.test is None:
        return None
    return (counts.train + (counts.validation or 0) + counts.test) * 3 * size**2


def _source_text(name: str, fields: Mapping[str, Any]) -> str:
    place = fields.get("id") or fields.get("path") or ""
    return f"{name}: {place}" if place != "???" else name


def _to_do(dataset: str, description: Mapping[str, Any], states: Mapping[str, Presence], *, size: int) -> str:
    """Return the command that prepares a dataset, from a source that is here where the chosen one is not."""
    words = [f"randlora data prepare dataset={dataset}"]
    chosen = description["source"]
    if states[chosen] == "missing":
        chosen = next((name for name, state in states.items() if state == "here"), chosen)
    if chosen != description["source"]:
        words.append(f"dataset.source={chosen}")
    words += [f"dataset.{field}=…" for field in _open_fields(description)]
    fields = description["sources"][chosen]
    if states[chosen] == "missing" and fields.get("id") is None and "???" not in fields.values():
        words.append("machine.data_root=…")
    return " ".join(words + ([f"size={size}"] if size != USUAL_SIZE else []))
