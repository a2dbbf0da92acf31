"""Images of full size: kept encoded, decoded and cropped anew for each batch, exactly as torchvision does it on PIL."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

import torch

from randlora.data.augment import CROP_ATTEMPTS, CROP_RATIO, Augmentation, augment
from randlora.data.decode import open_rgb, resize_and_crop
from randlora.data.errors import DataError
from randlora.data.raw import Encoded, RawSplit

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from PIL.Image import Image
    from torch import Tensor


class Originals:
    """Chosen images of a split, encoded: opened one by one, in any order and as often as wanted.

    Images that are files of their own stay there. Others are copied once, as they are encoded, into a temporary file
    without a name (in ``TMPDIR``): it is gone when the process ends, however it ends. Worker processes read the same
    file; handing this object to one is all they need.

    Args:
        raw: the opened split; its rows are read up to the last one wanted.
        rows: for each image, the row of the split that holds it.
        where: dataset and part, for errors.

    Attributes:
        labels: the label of each image, as the split states it.

    Raises:
        DataError: if the split cannot be read or has fewer rows.
        OSError: if there is no space for the copy.
    """

    def __init__(self, raw: RawSplit, rows: Sequence[int], *, where: str) -> None:
        self.where = where
        self.rows = tuple(rows)
        self._copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as this object
        self._size = 0
        self._entries: dict[int, tuple[Encoded, int, int]] = {}  # by row; offset and length in the copy
        wanted, labels = set(self.rows), dict[int, Any]()
        with closing(raw.rows) as found:
            for row, (encoded, label) in enumerate(found):
                if row in wanted:
                    self._entries[row], labels[row] = self._keep(encoded), label
                if len(self._entries) == len(wanted):
                    break
        if len(self._entries) < len(wanted):
            missing = min(wanted - set(self._entries))
            raise DataError(f"{where}: there is no image {missing} in the source any more; prepare the dataset again")
        self.labels = tuple(labels[row] for row in self.rows)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def open(self, index: int) -> Image:
        """Return an image in RGB at its full size, cut to its box if it has one.

        Raises:
            DataError: if it cannot be decoded.
        """
        from PIL import Image

        encoded, offset, length = self._entries[self.rows[index]]
        try:
            if length:
                encoded = Encoded(**{**encoded, "bytes": os.pread(self._copy.fileno(), length, offset)})
            return open_rgb(encoded)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            name = encoded.get("path") or "no file name"
            raise DataError(
                f"{self.where}: image {self.rows[index]} ({name}) is unreadable: {error}; prepare the dataset again"
            ) from error

    def _keep(self, encoded: Encoded) -> tuple[Encoded, int, int]:
        image, content = encoded.get("image"), encoded.get("bytes")
        if image is not None:  # decoded by torchvision already; PNG loses nothing
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            content = buffer.getvalue()
        if content is None:
            return encoded, 0, 0
        offset, self._size = self._size, self._size + len(content)
        view = memoryview(content)
        while view:  # an unbuffered write may take a part
            view = view[self._copy.write(view) :]
        rest: Any = {key: value for key, value in encoded.items() if key not in ("image", "bytes")}
        return Encoded(**rest), offset, len(content)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copy": reduction.DupFd(self._copy.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._copy = os.fdopen(state["_copy"].detach(), "rb", buffering=0)


def source_rows(n: int, skipped: Sequence[int]) -> list[int]:
    """Return for each of ``n`` decoded images the row of its split, given the rows that were skipped as unreadable."""
    left_out = set(skipped)
    return [row for row in range(n + len(left_out)) if row not in left_out]


def crop_original(image: Image, seed: int, augmentation: Augmentation, *, size: int) -> UInt8[Tensor, "3 size size"]:
    """Return a training image of ``size`` x ``size`` pixels made from an RGB image of full size.

    ``crop: resized`` is torchvision's ``RandomResizedCrop`` (bicubic, ratio 3/4 to 4/3) and, with ``flip``, its
    ``RandomHorizontalFlip`` after it: the same numbers drawn in the same order from a stream of this seed give the
    same pixels. Other crops alter the evaluation image as :func:`randlora.data.augment.augment` does.
    """
    from PIL import Image as Pillow

    if augmentation.crop != "resized":
        return augment(_pixels(resize_and_crop(image, size))[None], (seed,), augmentation)[0]
    generator = torch.Generator().manual_seed(seed)
    box = random_box(*image.size, scale=augmentation.crop_scale, generator=generator)
    cropped = image.crop(box).resize((size, size), Pillow.Resampling.BICUBIC)
    if augmentation.flip and torch.rand(1, generator=generator).item() < 0.5:
        cropped = cropped.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
    return _pixels(cropped)


def random_box(
    width: int, height: int, *, scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a random crop, drawn as by torchvision's ``RandomResizedCrop``.

    The first of ten random shapes that fits, at a random place; else the largest central crop within the ratios.
    """
    low, high = CROP_RATIO
    log_ratio = torch.log(torch.tensor(CROP_RATIO))
    for _ in range(CROP_ATTEMPTS):
        area = width * height * torch.empty(1).uniform_(scale[0], scale[1], generator=generator).item()
        drawn = torch.empty(1).uniform_(log_ratio[0].item(), log_ratio[1].item(), generator=generator)
        ratio = torch.exp(drawn).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=generator).item())
            left = int(torch.randint(0, width - w + 1, (1,), generator=generator).item())
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _pixels(image: Image) -> UInt8[Tensor, "3 h w"]:
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()
