"""From encoded images to one uint8 tensor per split, with CLIP's evaluation geometry."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from randlora.data.errors import DataError
from randlora.data.sources import RawSplit

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt8
    from torch import Tensor

Unreadable = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedSplit:
    """A split in memory, in the order of its source.

    ``digest`` is the SHA-256 of the source file where one file holds the split, else of the decoded images and labels.
    ``skipped`` are the positions in the source of images that could not be read; they are not among ``images``.
    """

    images: UInt8[Tensor, "n 3 size size"]
    labels: Int64[Tensor, " n"]
    digest: str
    skipped: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_bytes(self) -> int:
        """Memory the images and labels take, in bytes."""
        return self.images.nbytes + self.labels.nbytes

    def subset(self, positions: Int64[Tensor, " k"]) -> DecodedSplit:
        """Return the images at ``positions`` as a split of their own; the digest stays that of the source."""
        return DecodedSplit(
            images=self.images[positions], labels=self.labels[positions], digest=self.digest, skipped=self.skipped
        )


def decode_image(encoded: bytes, size: int) -> UInt8[Tensor, "3 size size"]:
    """Decode one image: to RGB, bicubic to ``size`` on the short side, centre crop (CLIP's evaluation transform).

    RGB comes first because a palette image cannot be interpolated.

    Raises:
        OSError, ValueError, SyntaxError: as Pillow does for what is not a readable image.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as opened:
        image = opened.convert("RGB")
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.crop((left, top, left + size, top + size))
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(size, size, 3).permute(2, 0, 1).contiguous()


def decode_split(raw: RawSplit, *, where: str, n_classes: int, size: int, on_unreadable: Unreadable) -> DecodedSplit:
    """Decode all images of an opened split; ``where`` names dataset and split in errors.

    Raises:
        DataError: for an unreadable image (unless skipped), a label outside the classes, or a split without images.
    """
    from PIL import Image

    images, labels, skipped = [], [], []
    for index, (encoded, label) in enumerate(raw.rows):
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < n_classes:
            raise DataError(
                f"{where}: image {index} has the label {label!r}; {n_classes} classes allow 0 to {n_classes - 1}: "
                "correct the data, or the list of classes"
            )
        try:
            images.append(decode_image(_content(encoded), size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if on_unreadable == "error":
                raise DataError(
                    f"{where}: image {index} ({encoded.get('path') or 'no file name'}) is unreadable: {error}; "
                    "replace it, or set on_unreadable: skip to leave such images out and have them reported"
                ) from error
            skipped.append(index)
        else:
            labels.append(label)
    if not images:
        raise DataError(
            f"{where}: the split holds no readable images ({len(skipped)} unreadable ones); check the source"
        )
    stacked, label_tensor = torch.stack(images), torch.tensor(labels, dtype=torch.int64)
    digest = raw.file_digest or content_digest(stacked, label_tensor)
    return DecodedSplit(images=stacked, labels=label_tensor, digest=digest, skipped=tuple(skipped))


def content_digest(images: UInt8[Tensor, "n 3 size size"], labels: Int64[Tensor, " n"]) -> str:
    """Return the SHA-256 of decoded images and labels, in hexadecimal; it depends on the size they were decoded to."""
    sha = hashlib.sha256(repr(tuple(images.shape)).encode())
    for image in images:
        sha.update(image.numpy().tobytes())
    sha.update(repr(labels.tolist()).encode())
    return sha.hexdigest()


def _content(encoded: Mapping[str, Any]) -> bytes:
    content = encoded.get("bytes")
    if content is not None:
        return content
    if not encoded.get("path"):
        raise ValueError("neither bytes nor a file")
    return Path(encoded["path"]).read_bytes()
