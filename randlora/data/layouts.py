"""Layouts that datasets already have on disk: those of CoOp, of torchvision, and of the PASCAL VOC kit."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from randlora.checks import check_text
from randlora.data.boxes import Box
from randlora.data.errors import DataError
from randlora.data.raw import Encoded, RawSplit, Rows, Source, join, listed, local_path


@dataclass(frozen=True, kw_only=True)
class CoopFolder(Source):
    """A dataset as CoOp (Zhou et al. 2022) lays it out: a folder of images and a JSON file with the splits.

    The file holds, for ``train``, ``val`` and ``test``, lists of ``[image, label, class name]``; images are relative to
    ``<path>/<images>``.
    """

    path: str
    images: str
    split_file: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "path", "split_file")

    @property
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""
        return (
            f"the source's path needs the images under {Path(self.images) / '…'} and {self.split_file}, as in "
            "DATASETS.md of the CoOp repository (KaiyangZhou/CoOp)"
        )

    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit:
        folder = local_path(self.path, root)
        lists = self._lists(folder / self.split_file)
        names = self._class_names(lists, folder / self.split_file)
        entries = [(folder / self.images / entry[0], entry[1]) for name in self.splits[key] for entry in lists[name]]
        missing = [file for file, _ in entries if not file.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(entries)} images that {folder / self.split_file} lists for "
                f"{', '.join(self.splits[key])} are not there, such as {missing[0]}; {self.remedy}"
            )
        return listed(entries, class_names=names)

    def _lists(self, file: Path) -> Mapping[str, Sequence[Any]]:
        try:
            lists = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"there is no file {file}; {self.remedy}") from error
        except ValueError as error:
            raise DataError(f"{file} is not valid JSON ({error}); fetch it again") from error
        wanted = [name for names in self.splits.values() for name in names]
        for name in wanted:
            if not isinstance(lists, Mapping) or not lists.get(name):
                raise DataError(f"{file} has no images under {name!r}; it has {list(lists)}: set the source's splits")
            for entry in lists[name]:
                if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[1], int)):
                    raise DataError(f"{file}: an entry of {name!r} is {entry!r}; valid: [image, label, class name]")
        return lists

    def _class_names(self, lists: Mapping[str, Sequence[Any]], file: Path) -> tuple[str, ...]:
        """Return the class names by label, over all splits of the file."""
        names: dict[int, str] = {}
        for name in [name for names in self.splits.values() for name in names]:
            for _, label, words in lists[name]:
                if names.setdefault(label, words) != words:
                    raise DataError(f"{file} calls label {label} {names[label]!r} and {words!r}; a label has one name")
        if sorted(names) != list(range(len(names))):
            absent = min(set(range(max(names) + 1)) - set(names), default=min(names))
            raise DataError(f"{file} has labels {min(names)} to {max(names)} without label {absent}; fetch it again")
        ordered = tuple(names[label] for label in range(len(names)))
        twice = sorted({words for words in ordered if ordered.count(words) > 1})
        if twice:
            raise DataError(f"{file} gives the name {twice[0]!r} to two labels; every class needs a name of its own")
        return ordered


@dataclass(frozen=True, kw_only=True)
class TorchvisionFolder(Source):
    """A folder that a dataset class of torchvision reads; nothing is downloaded.

    ``dataset`` is the class (``StanfordCars``), ``path`` the ``root`` it is given, and ``splits`` the further arguments
    of each split, such as ``{train: {split: train}}``.
    """

    dataset: str
    path: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "dataset", "path")

    @property
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""
        return f"the source's path is the root that torchvision.datasets.{self.dataset} was downloaded to"

    def _split(self, key: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"TorchvisionFolder.splits.{key} = {value!r}; valid: arguments, such as {{split: train}}")
        return {str(name): argument for name, argument in value.items()}

    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit:
        from randlora.backbones.torchvision_guard import import_torchvision

        import_torchvision()
        from torchvision import datasets

        kind = getattr(datasets, self.dataset, None)
        if kind is None:
            near = difflib.get_close_matches(self.dataset, datasets.__all__, n=3)
            raise DataError(f"torchvision has no dataset {self.dataset!r}; nearest: {', '.join(near) or 'none'}")
        arguments = dict(self.splits[key])
        if "download" in inspect.signature(kind).parameters:
            arguments["download"] = False
        try:
            found = kind(str(local_path(self.path, root)), **arguments)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, ImportError) as error:
            raise DataError(f"cannot open {key!r} of {self}: {type(error).__name__}: {error}; {self.remedy}") from error
        names = getattr(found, "classes", None) or getattr(found, "categories", None)
        targets = getattr(found, "targets", None)
        return RawSplit(
            class_names=None
            if names is None
            else tuple(name if isinstance(name, str) else ", ".join(name) for name in names),
            digest=None,
            n_rows=len(found),
            read_labels=lambda: (
                [int(label) for label in targets] if targets is not None else [label for _, label in _images(found)]
            ),
            rows=_images(found),
        )


@dataclass(frozen=True, kw_only=True)
class VocFolder(Source):
    """A folder of the PASCAL VOC kit, such as ``VOCdevkit/VOC2007``: every annotated box becomes one image.

    ``splits`` name the lists under ``ImageSets/Main`` (train, val, test). The labels are the names in the annotations,
    so ``label_names`` is needed. Boxes marked difficult are used too, and are cut out as annotated.
    """

    path: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "path")
        if self.label_names is None:
            raise ValueError("VocFolder.label_names = None; valid: the names that the annotations use, in label order")

    @property
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""
        return (
            "the source's path is the folder with Annotations, ImageSets/Main and JPEGImages, such as VOCdevkit/VOC2007"
        )

    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit:
        folder = local_path(self.path, root)
        return join([self._list(folder, name) for name in self.splits[key]], self)

    def _list(self, folder: Path, name: str) -> RawSplit:
        file = folder / "ImageSets" / "Main" / f"{name}.txt"
        if not file.is_file():
            raise DataError(f"there is no file {file}; {self.remedy}")
        objects = [entry for line in file.read_text().split() for entry in self._objects(folder, line)]
        labels = [label for _, label in objects]
        rows = ((encoded, label) for encoded, label in objects)
        return RawSplit(class_names=None, digest=None, n_rows=len(objects), read_labels=lambda: labels, rows=rows)

    def _objects(self, folder: Path, image: str) -> list[tuple[Encoded, str]]:
        file, annotation = folder / "JPEGImages" / f"{image}.jpg", folder / "Annotations" / f"{image}.xml"
        for needed in (file, annotation):
            if not needed.is_file():
                raise DataError(f"there is no file {needed}; {self.remedy}")
        try:
            found = []
            for entry in ElementTree.parse(annotation).getroot().iterfind("object"):
                sides = [float(entry.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
                box = Box(left=sides[0], top=sides[1], right=sides[2], bottom=sides[3])
                found.append((Encoded(bytes=None, path=str(file), box=box), entry.findtext("name", "")))
        except (ElementTree.ParseError, ValueError) as error:
            raise DataError(f"{annotation} is not an annotation of PASCAL VOC ({error}); fetch it again") from error
        return found


def _images(dataset: Any) -> Rows:
    for index in range(len(dataset)):
        name = f"image {index} of {type(dataset).__name__}"
        try:
            image, label = dataset[index]
        except (OSError, ValueError, SyntaxError) as error:
            yield Encoded(bytes=None, path=name, problem=str(error)), None
        else:
            yield Encoded(bytes=None, path=name, image=image), label
