"""Where the images of a dataset come from: the Hugging Face hub, tar shards, parquet files or folders.

A source knows its own names for splits and classes; ``Source.open`` gives the images of one split with the labels as
the source states them. Layouts that other suites leave on disk are in :mod:`randlora.data.layouts`.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randlora.checks import check_text
from randlora.data.boxes import Boxes
from randlora.data.errors import DataError
from randlora.data.raw import RawSplit, Source, join, listed, local_copy, local_path

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class ParquetSource(Source):
    """A folder with one ``<split>.parquet`` per split, with the feature header of the ``datasets`` library."""

    path: str
    image_column: str
    label_column: str

    @property
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""
        return (
            "the embedded datasets come with a checkout of the repository under assets/data (restore them with git "
            "or rebuild them with assets/make_subsets.py); for files of your own, set the source's path to the folder "
            "that holds <split>.parquet"
        )

    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit:
        from randlora.data.tables import Table, open_table

        folder = local_path(self.path, root)
        tables = []
        for name in self.splits[key]:
            file = folder / f"{name}.parquet"
            if not file.is_file():
                raise DataError(f"there is no file {file}; {self.remedy}")
            # The batch is stated because the library's own choice, the rows of the first group, is 0 for an empty file.
            arguments = {"path": "parquet", "data_files": {"split": glob.escape(str(file))}, "batch_size": 1000}
            tables.append(Table(name=name, arguments={**arguments, "split": "split", "streaming": True}, file=file))
        columns: dict[str, Any] = {"image_column": self.image_column, "label_column": self.label_column}
        return join([open_table(table, source=self, **columns, progress=progress) for table in tables], self)


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """A dataset of the Hugging Face hub that needs no loading script, or a copy of its repository in a local folder.

    From the hub it is downloaded once into the caches of the ``datasets`` library, which keep both the files and a
    converted copy; interrupted downloads continue. ``id`` is ``owner/name`` or a folder, ``revision`` a branch, tag or
    commit (a commit for results that are to be repeated), ``config`` the name of a configuration (None: the only or
    default one). With ``boxes`` the images are the boxes of each row, and the label column is not read.
    """

    id: str
    revision: str | None
    config: str | None
    image_column: str
    label_column: str | None
    boxes: Boxes | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "id", "image_column")
        check_text(self, "revision", "config", "label_column", optional=True)
        if (self.label_column is None) == (self.boxes is None):
            raise ValueError(
                f"HubSource.label_column = {self.label_column!r} with boxes = {self.boxes!r}; valid: one of the two, "
                "the other null"
            )

    @property
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""
        return (
            f"check the id, config, revision and names of splits, prepare the dataset where there is a network (the "
            f"copy in the Hugging Face cache is found again offline), or choose a local copy of {self.id!r} among the "
            "dataset's other sources"
        )

    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit:
        from randlora.data.tables import Table, open_table

        folder = local_copy(self.id, root)
        where = {"path": self.id, "revision": self.revision} if folder is None else {"path": str(folder)}
        columns: dict[str, Any] = {
            "image_column": self.image_column,
            "label_column": self.label_column,
            "boxes": self.boxes,
        }
        pieces = []
        for name in self.splits[key]:
            arguments = {**where, "name": self.config, "split": name, "streaming": folder is not None}
            pieces.append(open_table(Table(name=name, arguments=arguments), source=self, **columns, progress=progress))
        return join(pieces, self)


@dataclass(frozen=True, kw_only=True)
class WebDatasetSource(Source):
    """Tar shards in the WebDataset format, on the hub (such as ``clip-benchmark/wds_cars``) or in a local folder.

    ``splits`` name folders that hold ``*.tar``, or patterns of files such as ``train-*.tar``; shards are read in the
    order of their names. From the hub they are downloaded into its cache as they are, and interrupted downloads
    continue. ``id`` is ``owner/name`` or a folder; the columns are the file endings inside the shards (``jpg``,
    ``webp``, ``cls``).
    """

    id: str
    revision: str | None
    image_column: str
    label_column: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "id", "image_column", "label_column")
        check_text(self, "revision", optional=True)

    @property
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""
        return (
            "check the id, revision and names of splits (folders with *.tar, or patterns such as train-*.tar), and "
            f"prepare the dataset where there is a network, or set id to a local folder with the shards of {self.id!r}"
        )

    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit:
        from randlora.data.tables import Table, download, open_table

        patterns = {name: name if name.endswith(".tar") else f"{name}/*.tar" for name in self.splits[key]}
        folder = local_copy(self.id, root)
        if folder is None:
            folder = download(self, patterns=list(patterns.values()), progress=progress)
        pieces = []
        for name, pattern in patterns.items():
            shards = sorted(str(shard) for shard in folder.glob(pattern))
            if not shards:
                raise DataError(f"no file matches {pattern} in {folder} for split {name!r}; {self.remedy}")
            files = {"split": [glob.escape(shard) for shard in shards]}
            arguments = {"path": "webdataset", "data_files": files, "split": "split", "streaming": True}
            columns: dict[str, Any] = {"image_column": self.image_column, "label_column": self.label_column}
            pieces.append(open_table(Table(name=name, arguments=arguments), source=self, **columns, progress=progress))
        return join(pieces, self)


@dataclass(frozen=True, kw_only=True)
class ImageFolderSource(Source):
    """A folder ``<path>/<split>/<class>/<image>``; a split named ``.`` is ``<path>/<class>/<image>``.

    Labels number the sorted class folders found in *any* split, so a class that a split lacks shifts no label.
    """

    path: str

    @property
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""
        return (
            "the source's path needs the layout <path>/<split>/<class name>/<image file>, for example train/cat/1.jpg"
        )

    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit:
        folder = local_path(self.path, root)
        everywhere = {name for names in self.splits.values() for name in names}
        classes = sorted({entry.name for name in everywhere for entry in (folder / name).glob("*") if entry.is_dir()})
        label_of = {name: label for label, name in enumerate(classes)}
        files = []
        for name in self.splits[key]:
            images = [
                image
                for image in sorted((folder / name).glob("*/*"))
                if image.suffix.lower() in IMAGE_SUFFIXES and image.parent.name in label_of
            ]
            if not images:
                raise DataError(f"there are no images under {folder / name}; {self.remedy}")
            files += [(image, label_of[image.parent.name]) for image in images]
        return listed(files, class_names=tuple(classes))
