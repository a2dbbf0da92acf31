"""From encoded images to uint8 tensors, with CLIP's evaluation geometry."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from randlora.data.boxes import Box
from randlora.data.errors import DataError
from randlora.data.raw import Encoded, RawSplit

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from PIL.Image import Image
    from torch import Tensor

Unreadable = Literal["error", "skip"]
Sink = Callable[["UInt8[Tensor, '3 size size']", int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedSplit:
    """Decoded images with their labels, in the order of their source.

    Attributes:
        stored: the images, and possibly others, in memory or mapped from a file.
        labels: one for each image of the split.
        digest: that of the source (:class:`randlora.data.raw.RawSplit`), where it has none the SHA-256 of the decoded
            images and labels.
        skipped: positions in the split of images that could not be read; they are not among the images.
        rows: the place of each image in ``stored``; None: all of ``stored`` in its order.
    """

    stored: UInt8[Tensor, "m 3 size size"]
    labels: Int64[Tensor, " n"]
    digest: str
    skipped: tuple[int, ...]
    rows: Int64[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> UInt8[Tensor, "n 3 size size"]:
        """The images, all at once: a copy in memory where they are only some of those stored; see ``blocks``."""
        return self.stored if self.rows is None else self.stored[self.rows]

    @property
    def size(self) -> int:
        """Pixels along a side."""
        return self.stored.shape[-1]

    @property
    def n_bytes(self) -> int:
        """Memory the images and labels take, in bytes."""
        return len(self) * self.stored[:1].nbytes + self.labels.nbytes

    def places(self, positions: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """Return where the images at ``positions`` are in ``stored``."""
        return positions if self.rows is None else self.rows[positions]

    def blocks(self, length: int) -> Iterator[UInt8[Tensor, "b 3 size size"]]:
        """Yield the images, ``length`` at a time, without holding more of them in memory."""
        if self.rows is None:
            yield from self.stored.split(length)
            return
        for rows in self.rows.split(length):
            yield self.stored[rows]

    def subset(self, positions: Int64[Tensor, " k"]) -> DecodedSplit:
        """Return the images at ``positions`` as a split of their own; the digest stays that of the source."""
        return DecodedSplit(
            stored=self.stored,
            labels=self.labels[positions],
            digest=self.digest,
            skipped=self.skipped,
            rows=self.places(positions),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoding:
    """What decoding a split gave beside the images: labels of the images passed on, digest, positions left out."""

    labels: Int64[Tensor, " n"]
    digest: str
    skipped: tuple[int, ...]


def open_rgb(encoded: Encoded, box: Box | None = None) -> Image:
    """Return the image in RGB at its full size, cut to ``box`` (without one: to the box that ``encoded`` carries).

    RGB comes first because a palette image cannot be interpolated.

    Raises:
        OSError, ValueError, SyntaxError: as Pillow does for what is not a readable image, and for a box outside it.
    """
    from PIL import Image as pillow

    if "problem" in encoded:
        raise ValueError(encoded["problem"])
    given = encoded.get("image")
    if given is not None:
        image = given.convert("RGB")
    else:
        with pillow.open(io.BytesIO(_content(encoded))) as opened:
            image = opened.convert("RGB")
    box = box if box is not None else encoded.get("box")
    return image if box is None else image.crop(box.pixels(*image.size))


def resize_and_crop(image: Image, size: int) -> Image:
    """Return an RGB image, bicubic to ``size`` on the short side, centre crop (CLIP's evaluation transform)."""
    from PIL.Image import Resampling

    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def decode_image(encoded: Encoded, size: int) -> UInt8[Tensor, "3 size size"]:
    """Decode one image to ``size`` x ``size`` pixels: ``open_rgb`` and ``resize_and_crop``.

    Raises:
        OSError, ValueError, SyntaxError: as ``open_rgb``.
    """
    image = resize_and_crop(open_rgb(encoded), size)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(size, size, 3).permute(2, 0, 1).contiguous()


def decode_split(raw: RawSplit, *, where: str, size: int, on_unreadable: Unreadable, workers: int = 1) -> DecodedSplit:
    """Decode all images of an opened split into memory; arguments and errors as of :func:`decode_into`."""
    images: list[Tensor] = []
    found = decode_into(
        raw,
        where=where,
        size=size,
        on_unreadable=on_unreadable,
        sink=lambda image, *_: images.append(image),
        workers=workers,
    )
    return DecodedSplit(stored=torch.stack(images), labels=found.labels, digest=found.digest, skipped=found.skipped)


def decode_into(
    raw: RawSplit,
    *,
    where: str,
    size: int,
    on_unreadable: Unreadable,
    sink: Sink,
    workers: int = 1,
) -> Decoding:
    """Decode the images of an opened split one by one and pass each with its label to ``sink``, in their order.

    Args:
        raw: the split; its rows are used up.
        where: dataset and part, for errors.
        size: pixels a side.
        on_unreadable: ``error``, or ``skip`` to leave out what cannot be decoded.
        sink: takes (uint8 image of 3 x size x size, label, position in the split), on the calling thread.
        workers: threads that decode; they change neither order nor result.

    Raises:
        DataError: for an unreadable image (unless skipped) or a split without images.
    """
    labels: list[int] = []
    skipped: list[int] = []
    sha = hashlib.sha256()
    with closing(raw.rows) as rows:
        for index, (encoded, label, image) in enumerate(_decoded(rows, size=size, workers=workers)):
            if not isinstance(image, torch.Tensor):
                if on_unreadable == "error":
                    raise DataError(
                        f"{where}: image {index} ({encoded.get('path') or 'no file name'}) is unreadable: {image}; "
                        "replace it, or set on_unreadable: skip to leave such images out and have them reported"
                    ) from image
                skipped.append(index)
                continue
            labels.append(label)
            sha.update(image.numpy().data)
            sink(image, label, index)
    if not labels:
        raise DataError(
            f"{where}: the split holds no readable images ({len(skipped)} unreadable ones); check the source"
        )
    sha.update(repr((size, labels)).encode())
    return Decoding(
        labels=torch.tensor(labels, dtype=torch.int64),
        digest=raw.digest or sha.hexdigest(),
        skipped=tuple(skipped),
    )


def _decoded(
    rows: Iterable[tuple[Encoded, Any]], *, size: int, workers: int
) -> Iterator[tuple[Encoded, Any, Tensor | Exception]]:
    """Yield encoded image, label and decoded image or what is wrong with it, some images ahead with several threads."""
    if workers <= 1:
        for encoded, label in rows:
            yield encoded, label, _try_decode(encoded, size)
        return
    ahead: deque[tuple[Encoded, Any, Future[Tensor | Exception]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for encoded, label in rows:
                ahead.append((encoded, label, pool.submit(_try_decode, encoded, size)))
                if len(ahead) > 4 * workers:
                    first, its_label, future = ahead.popleft()
                    yield first, its_label, future.result()
            while ahead:
                first, its_label, future = ahead.popleft()
                yield first, its_label, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _try_decode(encoded: Encoded, size: int) -> Tensor | Exception:
    from PIL.Image import DecompressionBombError

    try:
        return decode_image(encoded, size)
    except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:
        return error


def _content(encoded: Encoded) -> bytes:
    content = encoded.get("bytes")
    if content is not None:
        return content
    path = encoded.get("path")
    if not path:
        raise ValueError("neither bytes nor a file")
    return Path(path).read_bytes()
