"""A dataset of images is a description: where the images are, what its classes are called, how to prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from randlora.data.decode import DecodedSplit, Unreadable, decode_split
from randlora.data.errors import DataError
from randlora.data.sources import RawSplit, Source, open_split

Split = Literal["train", "test"]
PLACEHOLDER = "{class}"


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """One image classification dataset.

    Attributes:
        name: short name, as in file names and on the command line, such as ``eurosat``.
        title: name for people, as in tables, such as ``EuroSAT``.
        version: raised when a prompt, a class name or a split rule changes, because the numbers change with it.
        source: where the images are.
        image_column: column of the source that holds the images.
        label_column: column of the source that holds the labels.
        train_split: name of the split in the source to train on (and to hold validation images out of).
        test_split: name of the split in the source to test on.
        classes: the words for each class in prompts, in the order of the labels.
        source_classes: the label names the source has to state, in order; a difference is an error. None: not
            checked, except that ``classes`` must not be the same names in another order.
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
    source: Source
    image_column: str
    label_column: str
    train_split: str
    test_split: str
    classes: Sequence[str]
    source_classes: Sequence[str] | None
    prompt: str
    templates: Sequence[str]
    licence: str
    citation: str
    on_unreadable: Unreadable = "error"

    def __post_init__(self) -> None:
        for field in ("classes", "source_classes", "templates"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise self._invalid(field, f"is the string {value!r}; give a list of strings")
            # Lists come from YAML; tuples make the description hashable, which the cache of decoded splits relies on.
            if value is not None:
                object.__setattr__(self, field, tuple(value))
        self._check_classes()
        self._check_templates()
        if self.version < 1:
            raise self._invalid("version", f"is {self.version}; give a whole number from 1")
        if self.train_split == self.test_split:
            raise self._invalid("test_split", f"is the training split {self.train_split!r}; test images must be others")
        if self.on_unreadable not in get_args(Unreadable):
            raise self._invalid("on_unreadable", f"is {self.on_unreadable!r}; give one of {get_args(Unreadable)}")

    @property
    def captions(self) -> tuple[str, ...]:
        """The training prompt of every class, in the order of the labels."""
        return tuple(fill(self.prompt, name) for name in self.classes)

    @property
    def ensemble(self) -> tuple[tuple[str, ...], ...]:
        """For every class, in the order of the labels, its words in every template of the zero-shot head."""
        return tuple(tuple(fill(template, name) for template in self.templates) for name in self.classes)

    def load(self, *, split: Split, size: int, root: Path) -> DecodedSplit:
        """Read and decode one split to ``size`` x ``size`` pixels; relative paths of the source start at ``root``.

        The whole split is held in memory, 3·size² bytes an image: 1.2 GB for 8,000 images of 224 pixels.

        Raises:
            ValueError: for a split other than ``train`` and ``test`` or a size below 1.
            DataError: if the data is missing, unreadable or does not fit this description.
        """
        if split not in get_args(Split) or size < 1:
            raise ValueError(
                f"load(split={split!r}, size={size}): the splits are {get_args(Split)}, the size at least 1"
            )
        stored = self.train_split if split == "train" else self.test_split
        where = f"dataset {self.name}, split {stored!r}"
        columns = {"image_column": self.image_column, "label_column": self.label_column}
        with open_split(self.source, split=stored, root=root, **columns) as raw:
            self._check_source_classes(raw, where)
            decoded = decode_split(
                raw, where=where, n_classes=len(self.classes), size=size, on_unreadable=self.on_unreadable
            )
        if split == "train":
            self._check_every_class(decoded, where)
        return decoded

    def _check_classes(self) -> None:
        if len(self.classes) < 2:
            raise self._invalid("classes", f"has {len(self.classes)} entries; give the words of at least 2 classes")
        for label, words in enumerate(self.classes):
            if not isinstance(words, str) or not words.strip():
                raise self._invalid(
                    "classes", f"entry {label} is {words!r}; give each class non-empty words (quote numbers)"
                )
        repeated = [words for words, count in Counter(self.classes).items() if count > 1]
        if repeated:
            raise self._invalid("classes", f"names {repeated[0]!r} twice; every class needs words of its own")
        if self.source_classes is not None and len(self.source_classes) != len(self.classes):
            raise self._invalid(
                "source_classes",
                f"has {len(self.source_classes)} entries for {len(self.classes)} classes; give one each",
            )

    def _check_templates(self) -> None:
        if not self.templates:
            raise self._invalid("templates", f"is empty; give at least one, such as 'a photo of a {PLACEHOLDER}.'")
        for field, templates in (("prompt", (self.prompt,)), ("templates", self.templates)):
            for template in templates:
                if PLACEHOLDER not in template:
                    raise self._invalid(
                        field, f"{template!r} lacks {PLACEHOLDER}; write for example 'a photo of a {PLACEHOLDER}.'"
                    )

    def _check_source_classes(self, raw: RawSplit, where: str) -> None:
        found = raw.class_names
        if found is not None and len(found) != len(self.classes):
            raise DataError(
                f"{where}: the source has {len(found)} classes, the dataset {len(self.classes)}; list each once"
            )
        if self.source_classes is None:
            if found is not None and found != self.classes and set(found) == set(self.classes):
                raise DataError(f"{where}: classes are the label names of the source in another order: {list(found)}")
            return
        if found is None:
            raise DataError(f"{where}: the source states no label names to check; set source_classes: null")
        for label, (expected, actual) in enumerate(zip(self.source_classes, found, strict=True)):
            if expected != actual:
                raise DataError(
                    f"{where}: label {label} is {actual!r} in the source, {expected!r} in source_classes; put "
                    f"classes and source_classes in the order of the source: {list(found)}"
                )

    def _check_every_class(self, decoded: DecodedSplit, where: str) -> None:
        counts = torch.bincount(decoded.labels, minlength=len(self.classes))
        empty = [self.classes[label] for label in (counts == 0).nonzero().flatten().tolist()]
        if empty:
            raise DataError(
                f"{where}: no training image of {', '.join(map(repr, empty))}; "
                "add images, or take the class out of the data"
            )

    def _invalid(self, field: str, problem: str) -> ValueError:
        return ValueError(f"dataset {self.name}: {field} {problem}")


def fill(template: str, words: str) -> str:
    """Return the template with ``{class}`` replaced by the words of a class."""
    return template.replace(PLACEHOLDER, words)
