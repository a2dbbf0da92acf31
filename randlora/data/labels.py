"""From the labels of a source to those of a dataset, by the names of classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from randlora.data.errors import DataError
from randlora.data.raw import RawSplit, Rows, combined_digest

if TYPE_CHECKING:
    from jaxtyping import Int64
    from torch import Tensor

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Turns what a source gives as a label into the position of its class.

    Attributes:
        names: the source's name of every class, in the order of the dataset's classes.
        order: the class of each label of the source; None: labels are positions already.
        checkable: whether labels that are numbers may be used (not where names were to be checked and none are stated).
    """

    names: Sequence[str]
    order: Sequence[int] | None
    checkable: bool

    @classmethod
    def between(
        cls, *, stated: Sequence[str] | None, label_names: Sequence[str] | None, classes: Sequence[str], where: str
    ) -> Self:
        """Return the map from a source that states the names ``stated`` to ``classes``.

        Names in another order are mapped by name: those of ``label_names``, or ``classes`` themselves where the source
        states exactly these words.

        Raises:
            DataError: if the numbers of classes differ, or the source states other names than ``label_names``.
        """
        names = tuple(label_names if label_names is not None else classes)
        if stated is None:
            return cls(names=names, order=None, checkable=label_names is None)
        if len(stated) != len(classes):
            raise DataError(
                f"{where}: the source has {len(stated)} classes ({_some(stated)}), the dataset {len(classes)} "
                f"({_some(classes)}); list each class once, or choose another source"
            )
        unknown, absent = (_difference(*pair) for pair in ((stated, names), (names, stated)))
        if label_names is None and unknown:
            return cls(names=names, order=None, checkable=True)
        if unknown or absent:
            raise DataError(
                f"{where}: the source states the label names {_some(unknown)}, and label_names lists {_some(absent)} "
                f"in their place ({len(unknown)} of {len(stated)} differ); use the source's own names, in the order of "
                f"classes: it states {list(stated)}"
            )
        place = {name: label for label, name in enumerate(names)}
        return cls(names=names, order=tuple(place[name] for name in stated), checkable=True)

    def __call__(self, label: Any, *, where: str, index: int) -> int:
        """Return the class of the label of image ``index``.

        Raises:
            DataError: if it is no name of a class, or no whole number below the number of classes.
        """
        if isinstance(label, str):
            if label in self.names:
                return self.names.index(label)
            raise DataError(
                f"{where}: image {index} has the label {label!r}, which is none of the names {_some(self.names)}; "
                "choose a label column of numbers, or list the source's own names under label_names"
            )
        if not self.checkable:
            raise DataError(
                f"{where}: the source states no label names to check; set label_names: null, or choose another source"
            )
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(self.names):
            raise DataError(
                f"{where}: image {index} has the label {label!r}; {len(self.names)} classes allow 0 to "
                f"{len(self.names) - 1}: correct the data, the label column, or the list of classes"
            )
        return label if self.order is None else self.order[label]


def relabelled(
    raw: RawSplit,
    label_map: LabelMap,
    *,
    where: str,
    positions: Int64[Tensor, " k"] | None,
    classes: Sequence[str],
) -> RawSplit:
    """Return a split with labels as positions in ``classes``, of the images at ``positions`` (None: of all).

    Its rows and labels raise DataError as the label map does.
    """
    wanted = None if positions is None else positions.tolist()

    def labels() -> Sequence[int]:
        found = raw.read_labels()
        return [label_map(found[k], where=where, index=k) for k in (range(len(found)) if wanted is None else wanted)]

    return RawSplit(
        class_names=tuple(classes),
        digest=raw.digest if positions is None else digest_of_some(raw.digest, positions),
        n_rows=raw.n_rows if wanted is None else len(wanted),
        read_labels=labels,
        rows=_rows(raw, label_map, where=where, wanted=None if wanted is None else set(wanted)),
    )


def _rows(raw: RawSplit, label_map: LabelMap, *, where: str, wanted: set[int] | None) -> Rows:
    for index, (encoded, label) in enumerate(raw.rows):
        if wanted is None or index in wanted:
            yield encoded, None if "problem" in encoded else label_map(label, where=where, index=index)


def digest_of_some(digest: str | None, positions: Int64[Tensor, " k"]) -> str | None:
    """Return the digest of the images at ``positions`` in a split of this digest; None where that has none."""
    return combined_digest([digest, hashlib.sha256(json.dumps(positions.tolist()).encode()).hexdigest()])


def _difference(ones: Sequence[str], others: Sequence[str]) -> list[str]:
    return [one for one in ones if one not in set(others)]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return f"{shown}, …" if len(names) > _SHOWN else shown
