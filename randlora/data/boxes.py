"""Annotated boxes: each is cut out of its image and becomes an image with the box's label (PascalVOC, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from randlora.checks import check_choice, check_text
from randlora.data.errors import DataError

BoxFormat = Literal["xyxy", "xywh"]
BoxUnit = Literal["pixel", "share"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of an image, in pixels from its upper left corner, or in shares of its sides."""

    left: float
    top: float
    right: float
    bottom: float
    unit: BoxUnit = "pixel"

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in whole pixels, cut to an image of ``width`` x ``height``.

        Raises:
            ValueError: if no pixel of the image lies inside.
        """
        across, down = (width, height) if self.unit == "share" else (1, 1)
        left, right = (min(max(round(x * across), 0), width) for x in (self.left, self.right))
        top, bottom = (min(max(round(y * down), 0), height) for y in (self.top, self.bottom))
        if left >= right or top >= bottom:
            raise ValueError(f"{self} holds no pixel of an image of {width} x {height}")
        return left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Where a row of a source keeps its boxes; all of them are used, those marked difficult too.

    Attributes:
        objects_column: column with the objects of an image: a list of records, or a record of lists; None:
            ``box_fields`` and ``label_field`` are columns that hold lists.
        box_fields: one field with four numbers, or four fields with one number each.
        label_field: field with the label.
        format: ``xyxy``: left, top, right, bottom; ``xywh``: left, top, width, height.
        unit: ``pixel``, or ``share`` of the image's sides.
    """

    objects_column: str | None
    box_fields: Sequence[str]
    label_field: str
    format: BoxFormat
    unit: BoxUnit

    def __post_init__(self) -> None:
        check_text(self, "objects_column", optional=True)
        check_text(self, "label_field")
        check_choice(self, "format", ("xyxy", "xywh"))
        check_choice(self, "unit", ("pixel", "share"))
        if isinstance(self.box_fields, str) or len(self.box_fields) not in (1, 4):
            raise ValueError(f"Boxes.box_fields = {self.box_fields!r}; valid: a list of one field, or of four")
        object.__setattr__(self, "box_fields", tuple(self.box_fields))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.objects_column,) if self.objects_column is not None else (*self.box_fields, self.label_field)

    def of(self, row: Mapping[str, Any]) -> Iterator[tuple[Box, Any]]:
        """Yield the boxes of a row with their labels, in the order of the row.

        Raises:
            DataError: if a field is missing, lists differ in length or a box is not four numbers.
        """
        objects = row if self.objects_column is None else row[self.objects_column]
        if isinstance(objects, Mapping):
            self._check_fields(objects)
            columns = [objects[field] for field in (*self.box_fields, self.label_field)]
            if len({len(column) for column in columns}) > 1:
                raise DataError(f"{self}: the fields of a row hold {[len(column) for column in columns]} values")
            records: Sequence[Sequence[Any]] = list(zip(*columns, strict=True))
        else:
            for entry in objects:
                self._check_fields(entry)
            records = [[entry[field] for field in (*self.box_fields, self.label_field)] for entry in objects]
        for *fields, label in records:
            yield self._box(fields[0] if len(fields) == 1 else fields), label

    def _box(self, numbers: Sequence[float]) -> Box:
        if len(numbers) != 4:
            raise DataError(f"{self}: a box holds {len(numbers)} numbers ({list(numbers)}); boxes have four")
        left, top, right, bottom = numbers
        if self.format == "xywh":
            right, bottom = left + right, top + bottom
        return Box(left=left, top=top, right=right, bottom=bottom, unit=self.unit)

    def _check_fields(self, record: Mapping[str, Any]) -> None:
        missing = [field for field in (*self.box_fields, self.label_field) if field not in record]
        if missing:
            raise DataError(f"{self}: an object has no field {missing[0]!r}; it has {list(record)}: set boxes to these")
