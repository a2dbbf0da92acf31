"""A dataset of images is a description: where the images are, how they are split, what its classes are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

import torch

from randlora.checks import is_number
from randlora.data.decode import DecodedSplit, Unreadable, decode_split
from randlora.data.errors import DataError, ScriptError
from randlora.data.labels import LabelMap, relabelled
from randlora.data.prompts import fill, problem_of_classes, problem_of_templates
from randlora.data.raw import RawSplit, Source, join
from randlora.data.splits import PARTS, Part, SplitRule

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

    from randlora.data.prepared import PreparedStore


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """One image classification dataset.

    Attributes:
        name: short name, as in file names and on the command line, such as ``eurosat``.
        title: name for people, as in tables, such as ``EuroSAT``.
        version: raised when a prompt, a class name or a split rule changes, because the numbers change with it.
        source: the key in ``sources`` that is read.
        sources: places the same images can come from.
        splits: how the splits of a source become train, validation and test.
        sizes: number of images of each part under ``train_on: without_validation``, checked
            where it is stated (None: of no part).
        epochs: passes for 50 % and 100 % of the training images in the paper (Table 7); None outside it.
        download_mib: what the first choice of source downloads, in MiB; 0: nothing; None: not known.
        classes: the words for each class in prompts, in the order of the labels.
        prompt: template of image-text training and of the single-prompt test, with ``{class}``.
        templates: templates averaged in a zero-shot head, each with ``{class}``.
        licence: licence of the images.
        citation: what to cite for them.
        on_unreadable: ``error`` stops at an image that cannot be decoded, ``skip`` leaves it out and reports it.

    Raises:
        ValueError: for a field that cannot be meant, naming the dataset and the field.
    """

    name: str
    title: str
    version: int
    source: str
    sources: Mapping[str, Source]
    splits: SplitRule
    sizes: Mapping[str, int | None] | None
    epochs: int | None
    download_mib: float | None
    classes: Sequence[str]
    prompt: str
    templates: Sequence[str]
    licence: str
    citation: str
    on_unreadable: Unreadable = "error"

    def __post_init__(self) -> None:
        for field in ("classes", "templates"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise self._invalid(field, f"is the string {value!r}; give a list of strings")
            object.__setattr__(self, field, tuple(value))
        problems = {
            "classes": problem_of_classes(self.classes),
            "prompt": problem_of_templates([self.prompt]),
            "templates": problem_of_templates(self.templates),
        }
        for field, problem in problems.items():
            if problem is not None:
                raise self._invalid(field, problem)
        if self.on_unreadable not in get_args(Unreadable):
            raise self._invalid("on_unreadable", f"is {self.on_unreadable!r}; give one of {get_args(Unreadable)}")
        self._check_numbers()
        self._check_sources()

    @property
    def captions(self) -> tuple[str, ...]:
        """The training prompt of every class, in the order of the labels."""
        return tuple(fill(self.prompt, name) for name in self.classes)

    @property
    def ensemble(self) -> tuple[tuple[str, ...], ...]:
        """For every class, in the order of the labels, its words in every template of the zero-shot head."""
        return tuple(tuple(fill(template, name) for template in self.templates) for name in self.classes)

    @property
    def chosen(self) -> Source:
        """The source that is read."""
        return self.sources[self.source]

    @property
    def identity(self) -> str:
        """What decides the images of every part and their labels, as JSON: equal texts stand for equal images.

        That is the chosen source, the split rule, version and classes, and what happens to unreadable images; where
        the relative paths of a source start is not in it.
        """
        parts = {
            "source": {"kind": type(self.chosen).__name__, **asdict(self.chosen)},
            "splits": {"kind": type(self.splits).__name__, **asdict(self.splits)},
            "version": self.version,
            "classes": self.classes,
            "on_unreadable": self.on_unreadable,
        }
        return json.dumps(parts, sort_keys=True)

    def without_validation(self) -> Self:
        """Return the dataset whose training part shares no image with its validation part (itself, where it is so)."""
        return replace(self, splits=self.splits.without_validation()) if self.splits.draws_validation else self

    def size_of(self, part: Part) -> int | None:
        """Return how many images a part has to have, None where that is not stated."""
        assert self.sizes is not None
        size = self.sizes[part]
        if part == "train" and self.splits.draws_validation and self.splits.train_on == "full":
            held_out = self.sizes["validation"]
            return None if size is None or held_out is None else size + held_out
        return size

    def open(self, part: Part, *, root: Path, progress: bool = False) -> RawSplit:
        """Open a part: its encoded images with labels as positions in ``classes``, in the order of the source.

        Args:
            part: ``train`` (which obeys ``train_on``), ``validation`` or ``test``.
            root: folder that relative paths of the source start from.
            progress: show the progress bars of downloads.

        Raises:
            ValueError: for another part.
            DataError: if the data is missing, unreadable or does not fit this description.
        """
        if part not in PARTS:
            raise ValueError(f"open({part!r}): the parts are {', '.join(PARTS)}")
        if part == "validation" and not self.splits.has_validation:
            raise DataError(
                f"dataset {self.name} has no validation part; set splits.hold_out to hold some training images out, or "
                "let the recipe hold out some of every class (recipe.validation_per_class)"
            )
        raw, label_map = self._joined(part, root=root, progress=progress)
        where = self.where(part)
        pool = relabelled(raw, label_map, where=where, positions=None, classes=self.classes)
        positions = self.members(part, pool)
        found = relabelled(raw, label_map, where=where, positions=positions, classes=self.classes)
        if found.n_rows is not None:
            self.check_size(part, found.n_rows)  # said now, and not after an hour of decoding
        return found

    def open_pool(self, part: Part, *, root: Path, progress: bool = False) -> RawSplit:
        """Open all images that a part is taken from; arguments and errors as of ``open``. See ``members``."""
        raw, label_map = self._joined(part, root=root, progress=progress)
        return relabelled(raw, label_map, where=self.where(part), positions=None, classes=self.classes)

    def members(self, part: Part, pool: RawSplit) -> Int64[Tensor, " k"] | None:
        """Return the positions of a part among the images of ``open_pool``, ascending; None: all of them.

        Raises:
            DataError: if the split rule does not fit the images.
        """
        needs = self.splits.needs(part)
        if needs == "nothing":
            return None
        try:
            if needs == "count":
                count = pool.n_rows if pool.n_rows is not None else len(pool.read_labels())
                return self.splits.positions(part, count=count)
            return self.splits.positions(part, labels=torch.tensor(pool.read_labels(), dtype=torch.int64))
        except DataError as error:
            raise DataError(f"{self.where(part)}: {str(error).removeprefix(f'{self.where(part)}: ')}") from error

    def load(
        self, *, part: Part, size: int, root: Path, store: PreparedStore | None = None, workers: int = 1
    ) -> DecodedSplit:
        """Return a part at ``size`` x ``size`` pixels: from ``store`` where it is prepared, else read and decoded.

        What is decoded is held in memory, 3·size² bytes an image: 1.2 GB for 8,000 images of 224 pixels.

        Raises:
            ValueError: for a part other than ``train``, ``validation`` and ``test``, or a size below 1.
            DataError: if the data is missing, unreadable or does not fit this description.
        """
        if part not in PARTS or size < 1:
            raise ValueError(
                f"load(part={part!r}, size={size}): the parts are {', '.join(PARTS)}, the size is at least 1"
            )
        prepared = None if store is None else store.find(self, size)
        if prepared is not None:
            return prepared.part(part)
        raw = self.open(part, root=root)
        where = self.where(part)
        decoded = decode_split(raw, where=where, size=size, on_unreadable=self.on_unreadable, workers=workers)
        counts = torch.bincount(decoded.labels, minlength=len(self.classes)).tolist()
        self.check(part, per_class=counts, n_skipped=len(decoded.skipped))
        return decoded

    def where(self, part: Part) -> str:
        """Return what errors call a part."""
        return f"dataset {self.name}, {part} part"

    def check(self, part: Part, *, per_class: Sequence[int], n_skipped: int) -> None:
        """Hold what was read to this description: the number of images, and in training an image of every class.

        Raises:
            DataError: if it does not fit, with the numbers found and stated.
        """
        self.check_size(part, sum(per_class) + n_skipped)
        empty = [name for name, count in zip(self.classes, per_class, strict=True) if count == 0]
        if empty and part == "train":
            raise DataError(
                f"{self.where(part)}: no training image of {', '.join(map(repr, empty))}; "
                "add images, or take the class out of the data"
            )

    def check_size(self, part: Part, found: int) -> None:
        """Raise DataError where a part has another number of images than ``sizes`` states."""
        stated = self.size_of(part)
        if stated is not None and found != stated:
            raise DataError(
                f"{self.where(part)}: {self.chosen} holds {found:,} images, sizes states {stated:,}; the download may "
                "be incomplete or the source another version: fetch it again, or correct sizes (null: not checked)"
            )

    def _joined(self, part: Part, *, root: Path, progress: bool) -> tuple[RawSplit, LabelMap]:
        where = self.where(part)
        try:
            pieces = [self.chosen.open(key, root=root, progress=progress) for key in self.splits.keys(part)]
        except ScriptError as error:
            others = [f"dataset.source={name}" for name in self.sources if name != self.source]
            instead = f"choose another of its sources ({', '.join(others)})" if others else "add a source without one"
            raise ScriptError(f"dataset {self.name}: {error}; {instead}") from error
        raw = join(pieces, where)
        names = self.chosen.label_names
        return raw, LabelMap.between(stated=raw.class_names, label_names=names, classes=self.classes, where=where)

    def _check_sources(self) -> None:
        object.__setattr__(self, "sources", dict(self.sources))
        if self.source not in self.sources:
            raise self._invalid("source", f"is {self.source!r}; give one of {', '.join(self.sources) or 'none'}")
        needed = {key for part in PARTS for key in self.splits.keys(part)}
        for key, source in self.sources.items():
            if not isinstance(source, Source):
                raise self._invalid(f"sources.{key}", f"is {source!r}; give a source, with its _target_")
            names = source.label_names
            if names is not None and len(names) != len(self.classes):
                raise self._invalid(
                    f"sources.{key}.label_names",
                    f"has {len(names)} entries for {len(self.classes)} classes; give one each",
                )
        lacking = sorted(needed - set(self.chosen.splits))
        if lacking:
            raise self._invalid(
                f"sources.{self.source}.splits",
                f"has no {lacking[0]!r}, which the split rule names; it has {', '.join(self.chosen.splits)}",
            )

    def _check_numbers(self) -> None:
        sizes = dict(self.sizes or {})
        if set(sizes) - set(PARTS):
            raise self._invalid("sizes", f"has {sorted(set(sizes) - set(PARTS))}; its keys are {', '.join(PARTS)}")
        object.__setattr__(self, "sizes", {part: sizes.get(part) for part in PARTS})
        numbers = {"version": self.version, "epochs": self.epochs} | {
            f"sizes.{part}": sizes.get(part) for part in PARTS
        }
        for field, value in numbers.items():
            optional = field != "version" and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise self._invalid(field, f"is {value!r}; give a whole number from 1")
        if self.download_mib is not None and (not is_number(self.download_mib) or self.download_mib < 0):
            raise self._invalid("download_mib", f"is {self.download_mib!r}; give a number of MiB, or null")

    def _invalid(self, field: str, problem: str) -> ValueError:
        return ValueError(f"dataset {self.name}: {field} {problem}")
