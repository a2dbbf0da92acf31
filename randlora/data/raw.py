"""Images with their labels as a source gives them, and what every source shares."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from randlora.data.boxes import Box
from randlora.data.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


class Encoded(TypedDict, total=False):
    """An image that is not decoded yet: its bytes, or its file, or (from torchvision) the image.

    ``path`` is the file, or only a name where there are bytes; ``box`` is what to cut out of the image; ``problem``
    says why the source itself could not give the image.
    """

    bytes: bytes | None
    path: str | None
    image: Image | None
    box: Box | None
    problem: str


Rows = Generator[tuple[Encoded, Any], None, None]


@dataclass(frozen=True, kw_only=True)
class RawSplit:
    """Images with their labels in the order of the source, not yet decoded.

    Attributes:
        class_names: the names that the source states for labels 0, 1, …; None: it states none.
        digest: SHA-256 of the bytes of the file that holds the split; None where no single file does.
        n_rows: number of images; None where only reading tells.
        read_labels: reads the labels without the images, in the same order.
        rows: the images with their labels; can be read once.
    """

    class_names: tuple[str, ...] | None
    digest: str | None
    n_rows: int | None
    read_labels: Callable[[], Sequence[Any]] = field(repr=False)
    rows: Rows = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A place that holds the splits of a dataset.

    Attributes:
        splits: what each key of a split rule is in this source, usually names of splits, read one after another.
        label_names: what this source calls the classes, in the order of the dataset's ``classes``. Names that the
            source states are checked against them and mapped by name; labels that are texts are looked up in them.
            None: the labels are those of ``classes``, unchecked.
    """

    splits: Mapping[str, Any]
    label_names: Sequence[str] | None = field(repr=False)  # an error message need not list a thousand

    def __post_init__(self) -> None:
        if not isinstance(self.splits, Mapping) or not self.splits:
            raise ValueError(f"{type(self).__name__}.splits = {self.splits!r}; valid: names of splits by key")
        object.__setattr__(self, "splits", {str(key): self._split(key, value) for key, value in self.splits.items()})
        if self.label_names is None:
            return
        names = () if isinstance(self.label_names, str) else tuple(self.label_names)
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"{type(self).__name__}.label_names = {self.label_names!r}; valid: a list of texts, or null"
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{type(self).__name__}.label_names names {twice[0]!r} twice; valid: each class once")
        object.__setattr__(self, "label_names", names)

    def __str__(self) -> str:
        place = getattr(self, "path", None) or getattr(self, "id", "")
        return f"{type(self).__name__} {place!r}"

    def open(self, key: str, *, root: Path, progress: bool = False) -> RawSplit:
        """Open the split that a rule calls ``key``; relative paths start at ``root``; ``progress`` shows downloads.

        Raises:
            DataError: if the split is missing, cannot be reached or read, or is not as described.
        """
        if key not in self.splits:
            raise DataError(f"{self} has no split {key!r}; valid: {', '.join(self.splits)}: add it to its splits")
        return self._open(key, root=root, progress=progress)

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What the user can do when a split cannot be opened."""

    @abstractmethod
    def _open(self, key: str, *, root: Path, progress: bool) -> RawSplit: ...

    def _split(self, key: str, value: Any) -> Any:
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise ValueError(f"{type(self).__name__}.splits.{key} = {value!r}; valid: a list of names of splits")
        return tuple(value)


def listed(files: Sequence[tuple[Path, Any]], *, class_names: tuple[str, ...] | None) -> RawSplit:
    """Return a split of image files with their labels."""
    rows = ((Encoded(bytes=None, path=str(file)), label) for file, label in files)
    labels = [label for _, label in files]
    return RawSplit(class_names=class_names, digest=None, n_rows=len(files), read_labels=lambda: labels, rows=rows)


def join(pieces: Sequence[RawSplit], owner: object) -> RawSplit:
    """Return splits of one source as one, in their order.

    Raises:
        DataError: if they state different class names.
    """
    if len(pieces) == 1:
        return pieces[0]
    if len({piece.class_names for piece in pieces}) > 1:
        stated = "; ".join(
            f"{len(piece.class_names or ())} from {(piece.class_names or ('none',))[0]!r}" for piece in pieces
        )
        raise DataError(f"{owner}: its splits state different class names ({stated}); they cannot be joined")
    counts, digests = [piece.n_rows for piece in pieces], [piece.digest for piece in pieces]
    return RawSplit(
        class_names=pieces[0].class_names,
        digest=combined_digest(digests),
        n_rows=None if None in counts else sum(count for count in counts if count is not None),
        read_labels=lambda: [label for piece in pieces for label in piece.read_labels()],
        rows=_chained(piece.rows for piece in pieces),
    )


def combined_digest(digests: Iterable[str | None]) -> str | None:
    """Return one SHA-256 for several, None where one of them is missing."""
    known = list(digests)
    whole = [digest for digest in known if digest is not None]
    return hashlib.sha256("".join(whole).encode()).hexdigest() if len(whole) == len(known) else None


def local_path(path: str, root: Path) -> Path:
    """Return a path of a config: relative ones start at ``root``, ``~`` is the home folder."""
    return root / Path(path).expanduser()


def local_copy(id: str, root: Path) -> Path | None:
    """Return the folder that an id names, or None where it is an id of the hub.

    Raises:
        DataError: if it is written as a path and there is no such folder.
    """
    folder = local_path(id, root)
    if folder.is_dir():
        return folder
    if id.startswith(("/", ".", "~")):
        raise DataError(f"there is no folder {folder}; give a folder, or owner/name of a dataset on the hub")
    return None


def _chained(parts: Iterable[Rows]) -> Rows:
    for part in parts:
        yield from part
