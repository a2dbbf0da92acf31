"""Reading tables of images with the ``datasets`` library; the only place that calls it."""

from __future__ import annotations

import errno
import hashlib
import logging
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from randlora.data.boxes import Boxes
from randlora.data.errors import DataError, ScriptError
from randlora.data.raw import Encoded, RawSplit, Rows, Source

if TYPE_CHECKING:
    from randlora.data.sources import WebDatasetSource

_NOISY_LOGGERS = ("datasets", "huggingface_hub", "fsspec", "httpx")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SCRIPT = "scripts are no longer supported"  # the library raises a plain RuntimeError


@dataclass(frozen=True, kw_only=True)
class Table:
    """What ``datasets.load_dataset`` needs for one split; ``file`` is the one file that holds it, if there is one."""

    name: str
    arguments: Mapping[str, Any]
    file: Path | None = None


def open_table(
    table: Table,
    *,
    source: Source,
    image_column: str,
    label_column: str | None,
    boxes: Boxes | None = None,
    progress: bool,
) -> RawSplit:
    """Open one split of a source.

    The library's log lines and (without ``progress``) its progress bars are off meanwhile and as they were afterwards.

    Raises:
        DataError: if the split is missing, cannot be reached or read, or lacks one of the columns.
        OSError: if the disk is full.
    """
    import datasets

    with _quiet(progress=progress), _explained(source, table.name):
        stream = datasets.load_dataset(**table.arguments)
        digest = None if table.file is None else file_digest(table.file)
        features = stream.features or {}
        columns = boxes.columns if boxes is not None else (str(label_column),)
        owner = f"split {table.name!r} of {source}"
        _check_columns(features, owner=owner, image_column=image_column, columns=columns, boxes=boxes)
        stream = stream.cast_column(image_column, datasets.Image(decode=False))
    names = _class_names(features, label_column=label_column, boxes=boxes)

    def labels() -> Sequence[Any]:
        with _quiet(), _explained(source, table.name):
            rows = stream.select_columns(list(columns))
            if boxes is None:
                return [row[label_column] for row in rows]
            return [label for row in rows for _, label in boxes.of(row)]

    def rows() -> Rows:
        with _quiet(), _explained(source, table.name):
            for row in stream.select_columns([image_column, *columns]):
                if boxes is None:
                    yield row[image_column], row[label_column]
                    continue
                for box, label in boxes.of(row):
                    yield Encoded(**row[image_column], box=box), label

    n_rows = None if boxes is not None else _n_rows(stream, table.file)
    return RawSplit(class_names=names, digest=digest, n_rows=n_rows, read_labels=labels, rows=rows())


def download(source: WebDatasetSource, *, patterns: Sequence[str], progress: bool) -> Path:
    """Return the folder of the hub's cache with the files of a dataset that match; fetches what is missing.

    Raises:
        DataError: if they cannot be fetched.
        OSError: if the disk is full.
    """
    import huggingface_hub

    with _quiet(progress=progress), _explained(source, ", ".join(patterns)):
        folder = huggingface_hub.snapshot_download(
            repo_id=source.id, repo_type="dataset", revision=source.revision, allow_patterns=list(patterns)
        )
    return Path(folder)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_columns(
    features: Mapping[str, Any], *, owner: str, image_column: str, columns: Sequence[str], boxes: Boxes | None
) -> None:
    import datasets

    of_labels = "label_column" if boxes is None else "boxes"
    for name, column in (("image_column", image_column), *((of_labels, column) for column in columns)):
        if column not in features:
            raise DataError(f"{owner} has no column {column!r}; set {name} to one of {list(features)}")
    if not isinstance(features[image_column], datasets.Image):
        raise DataError(
            f"column {image_column!r} of {owner} holds {features[image_column]}, not images; "
            "set image_column to a column of the datasets type Image"
        )
    if boxes is None:
        feature = features[columns[0]]
        kind = "int64" if isinstance(feature, datasets.ClassLabel) else str(getattr(feature, "dtype", feature))
        if not kind.startswith(("int", "uint", "string", "large_string")):
            raise DataError(
                f"column {columns[0]!r} of {owner} holds {kind}, not labels; set label_column to a column of whole "
                f"numbers (or of names, with label_names), among {list(features)}"
            )


def _class_names(
    features: Mapping[str, Any], *, label_column: str | None, boxes: Boxes | None
) -> tuple[str, ...] | None:
    if boxes is None:
        feature = features[str(label_column)]
    else:
        objects = features if boxes.objects_column is None else features[boxes.objects_column]
        # A list of records keeps the record under ``feature``, and so does each list in a record of lists.
        objects = getattr(objects, "feature", objects)
        feature = objects.get(boxes.label_field) if isinstance(objects, Mapping) else None
        feature = getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    return None if names is None else tuple(names)


def _n_rows(stream: Any, file: Path | None) -> int | None:
    import pyarrow.parquet

    if file is not None:
        return int(pyarrow.parquet.read_metadata(file).num_rows)
    return getattr(stream, "num_rows", None)


@contextmanager
def _explained(source: Source, split: str) -> Iterator[None]:
    """Turn what the libraries raise for bad data into a DataError of one line; a full disk stays an OSError."""
    import datasets

    failures = (OSError, ValueError, EOFError, tarfile.TarError, datasets.exceptions.DatasetsError)
    try:
        yield
    except failures as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in _FULL:
                raise cause from error
            cause = cause.__cause__
        raise DataError(f"cannot read split {split!r} of {source}: {_first_line(error)}; {source.remedy}") from error
    except RuntimeError as error:
        if _SCRIPT not in str(error):
            raise
        raise ScriptError(
            f"cannot read split {split!r} of {source}: it needs a loading script, which the datasets library no longer "
            f"runs ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip()}" if lines else type(error).__name__


@contextmanager
def _quiet(*, progress: bool = False) -> Iterator[None]:
    """Silence the progress bars and log lines of the loading libraries; the suite reports its own progress."""
    import datasets
    from huggingface_hub import utils as hub

    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled(), hub.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if not progress:
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
