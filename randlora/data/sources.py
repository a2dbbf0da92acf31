"""Where the images of a dataset come from: parquet files, an image folder or the Hugging Face hub, behind one reader.

Every source answers one question, which arguments ``datasets.load_dataset`` needs for a split; ``open_split`` does the
rest, so that the three behave alike. Local sources are streamed: nothing is copied into a cache that could go stale.
"""

from __future__ import annotations

import glob
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randlora.data.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_NOISY_LOGGERS = ("datasets", "huggingface_hub", "fsspec", "httpx")


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What the reader needs to open one split.

    ``arguments`` go to ``datasets.load_dataset``; ``file`` is the one file whose bytes identify the split, if there is
    one; ``class_names`` fixes the label order where the source itself would infer it from whatever it finds.
    """

    arguments: Mapping[str, Any]
    streaming: bool
    file: Path | None = None
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RawSplit:
    """An opened split: encoded images with their labels, not yet decoded.

    ``rows`` yields ``({"bytes": ..., "path": ...}, label)`` in the order of the source and can be read once, inside the
    ``with`` block of ``open_split``. ``class_names`` are those the source states (None: it states none).
    """

    class_names: tuple[str, ...] | None
    file_digest: str | None
    rows: Iterator[tuple[Mapping[str, Any], Any]] = field(repr=False)


class Source(ABC):
    """A place that holds the splits of a dataset."""

    @abstractmethod
    def request(self, split: str, root: Path) -> LoadRequest:
        """Return how to open ``split``; relative paths start at ``root``.

        Raises:
            DataError: if what the split needs is not on this machine.
        """

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What the user can do when the split cannot be opened."""


@dataclass(frozen=True, kw_only=True)
class ParquetSource(Source):
    """A folder with one ``<split>.parquet`` per split, with the feature header of the ``datasets`` library."""

    path: str

    def request(self, split: str, root: Path) -> LoadRequest:
        """Return how to open ``<path>/<split>.parquet``; see ``Source.request``."""
        file = root / self.path / f"{split}.parquet"
        if not file.is_file():
            raise DataError(f"there is no file {file}; {self.remedy}")
        arguments = {
            "path": "parquet",
            "data_files": {"split": glob.escape(str(file))},
            "split": "split",
            # Stated because the library's own choice, the rows of the first group, is 0 for an empty file and refused.
            "batch_size": 1000,
        }
        return LoadRequest(arguments=arguments, streaming=True, file=file)

    @property
    def remedy(self) -> str:
        """What the user can do when the split cannot be opened."""
        return (
            "the embedded datasets come with a checkout of the repository under assets/data (restore them with git "
            "or rebuild them with assets/make_subsets.py); for files of your own, set source.path to the folder that "
            "holds <split>.parquet"
        )


@dataclass(frozen=True, kw_only=True)
class ImageFolderSource(Source):
    """A folder ``<path>/<split>/<class>/<image>``.

    Labels number the sorted class folders found in *any* split, so a class that a split lacks shifts no label.
    """

    path: str

    def request(self, split: str, root: Path) -> LoadRequest:
        """Return how to open ``<path>/<split>``; see ``Source.request``."""
        folder = root / self.path
        images = [file for file in (folder / split).glob("*/*") if file.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise DataError(f"there are no images under {folder / split}; {self.remedy}")
        classes = sorted({entry.name for entry in folder.glob("*/*") if entry.is_dir()})
        arguments = {
            "path": "imagefolder",
            "data_files": {"split": [glob.escape(str(file)) for file in sorted(images)]},
            "split": "split",
        }
        return LoadRequest(arguments=arguments, streaming=True, class_names=tuple(classes))

    @property
    def remedy(self) -> str:
        """What the user can do when the split cannot be opened."""
        return "source.path needs the layout <path>/<split>/<class name>/<image file>, for example train/cat/1.jpg"


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """A dataset of the Hugging Face hub; it is downloaded once into the cache of the ``datasets`` library.

    ``revision`` is a branch, tag or commit (a commit for results that are to be repeated), ``config`` the name of a
    configuration (None: the only or default one).
    """

    id: str
    revision: str | None
    config: str | None

    def request(self, split: str, root: Path) -> LoadRequest:
        """Return how to open ``split`` from the hub or its local cache; nothing is checked before."""
        arguments = {"path": self.id, "name": self.config, "revision": self.revision, "split": split}
        return LoadRequest(arguments=arguments, streaming=False)

    @property
    def remedy(self) -> str:
        """What the user can do when the split cannot be opened."""
        return (
            f"check the id, config and revision, and prepare the dataset where there is a network (the copy in the "
            f"Hugging Face cache is found again offline), or point the dataset at a local copy of {self.id!r}: "
            "a source of parquet files or an image folder"
        )


@contextmanager
def open_split(source: Source, *, split: str, root: Path, image_column: str, label_column: str) -> Iterator[RawSplit]:
    """Open one split of a source; the only place that calls ``datasets.load_dataset``.

    The library's progress bars and log lines are off inside the ``with`` block and as they were after it.

    Raises:
        DataError: if the split is missing, cannot be reached or read, or lacks one of the columns.
    """
    import datasets

    request = source.request(split, root)
    failures = (OSError, ValueError, datasets.exceptions.DatasetsError)
    with _quiet():
        try:
            if request.class_names is not None:
                label = datasets.ClassLabel(names=list(request.class_names))
                features = datasets.Features({image_column: datasets.Image(), label_column: label})
                stream = datasets.load_dataset(**request.arguments, streaming=request.streaming, features=features)
            else:
                stream = datasets.load_dataset(**request.arguments, streaming=request.streaming)
            digest = None if request.file is None else file_digest(request.file)
        except failures as error:
            raise DataError(_unreadable(source, split, error)) from error
        features = stream.features or {}
        _check_columns(features, source=source, split=split, image_column=image_column, label_column=label_column)
        stream = stream.cast_column(image_column, datasets.Image(decode=False))

        def rows() -> Iterator[tuple[Mapping[str, Any], Any]]:
            try:
                for row in stream:
                    yield row[image_column], row[label_column]
            except failures as error:
                raise DataError(_unreadable(source, split, error)) from error

        names = getattr(features[label_column], "names", None)
        yield RawSplit(class_names=None if names is None else tuple(names), file_digest=digest, rows=rows())


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_columns(
    features: Mapping[str, Any], *, source: Source, split: str, image_column: str, label_column: str
) -> None:
    import datasets

    for name, column in (("image_column", image_column), ("label_column", label_column)):
        if column not in features:
            raise DataError(
                f"split {split!r} of {source} has no column {column!r}; set {name} to one of {list(features)}"
            )
    if not isinstance(features[image_column], datasets.Image):
        raise DataError(
            f"column {image_column!r} of split {split!r} of {source} holds {features[image_column]}, not images; "
            "set image_column to a column of the datasets type Image"
        )


def _unreadable(source: Source, split: str, error: Exception) -> str:
    return f"cannot read split {split!r} of {source}: {type(error).__name__}: {error}; {source.remedy}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and log lines of the loading libraries; the suite reports its own progress."""
    import datasets
    from huggingface_hub import utils as hub

    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled(), hub.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars[0]:
            datasets.enable_progress_bars()
        if not bars[1]:
            hub.enable_progress_bars()
