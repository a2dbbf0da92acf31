"""Random crops, flips and normalisation of stored images, on batches on their device, seeded per sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch.nn.functional import interpolate, pad

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8
    from torch import Tensor

Crop = Literal["none", "pad", "resized"]
CROP_ATTEMPTS = 10
CROP_RATIO = (3 / 4, 4 / 3)
TAPS = 4  # pixels under Pillow's bicubic filter where it does not shrink
# Up to this side a CPU crops by matrix products over the batch, as a GPU always does. Above it they take too many
# operations, and images are enlarged one by one; the results differ by 1 or 2 of 255 in one pixel of 300.
DENSE_PIXELS = 64


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are altered.

    Attributes:
        crop: ``none``; ``pad``: ``crop_padding`` black pixels on every side, then a random crop of the old size; or
            ``resized``: a random part of the area with sides in a ratio of 3/4 to 4/3, resized with Pillow's bicubic
            filter (the paper: scale 0.5 to 1, section 6).
        crop_padding: pixels, for ``pad``.
        crop_scale: least and largest share of the area, for ``resized``.
        flip: mirror half of the images left to right.

    Raises:
        ValueError: for a setting outside its range.
    """

    crop: Crop
    crop_padding: int
    crop_scale: tuple[float, float]
    flip: bool

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if self.crop not in get_args(Crop) or self.crop_padding < 0 or not 0 < low <= high <= 1:
            raise ValueError(
                f"Augmentation(crop={self.crop!r}, crop_padding={self.crop_padding}, crop_scale={(low, high)}): crop "
                f"is one of {get_args(Crop)}, the padding at least 0, the scale two numbers with 0 < low <= high <= 1"
            )


def augment(
    images: UInt8[Tensor, "b 3 s s"], seeds: Sequence[int], augmentation: Augmentation
) -> UInt8[Tensor, "b 3 s s"]:
    """Return randomly cropped and mirrored copies of square images, on their device.

    Random numbers come from one CPU stream per sample, so an image's result depends on its own seed alone.

    Raises:
        ValueError: for images that are not square or a wrong number of seeds.
    """
    if images.shape[-1] != images.shape[-2] or len(seeds) != len(images):
        raise ValueError(
            f"augment: {len(seeds)} seeds for images of shape {tuple(images.shape)}; give square images, a seed each"
        )
    draws = _draws(seeds)
    mirrored = draws[:, 0] < 0.5 if augmentation.flip else torch.zeros(len(images), dtype=torch.bool)
    if augmentation.crop == "resized":
        low, high = augmentation.crop_scale
        return _resized_crop(images, draws, low=low, high=high, mirrored=mirrored)
    if augmentation.crop == "pad" and augmentation.crop_padding > 0:
        return _padded_crop(images, draws, padding=augmentation.crop_padding, mirrored=mirrored)
    return _mirror(images, mirrored)


def normalise(
    images: UInt8[Tensor, "b 3 h w"], mean: Sequence[float], std: Sequence[float]
) -> Float32[Tensor, "b 3 h w"]:
    """Return ``(images / 255 - mean) / std`` per colour channel, on the device of the images.

    Raises:
        ValueError: unless ``mean`` and ``std`` have 3 entries, those of ``std`` above 0.
    """
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"normalise(mean={list(mean)}, std={list(std)}): give 3 numbers each, those of std above 0")
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=images.device).view(1, 3, 1, 1) for v in (mean, std))
    return images.to(torch.float32, copy=True).div_(255).sub_(shift).div_(scale)


def _draws(seeds: Sequence[int]) -> Tensor:
    """Return the uniform numbers of every sample (b, 3 + 2 attempts): flip, two offsets, areas, ratios."""
    generator = torch.Generator()  # one for all: making it costs as much as drawing
    return torch.stack([torch.rand(3 + 2 * CROP_ATTEMPTS, generator=generator.manual_seed(seed)) for seed in seeds])


def _padded_crop(images: Tensor, draws: Tensor, *, padding: int, mirrored: Tensor) -> Tensor:
    size = images.shape[-1]
    offsets = (draws[:, 1:3] * (2 * padding + 1)).long()
    span = torch.arange(size)
    columns = torch.where(mirrored[:, None], span.flip(0), span) + offsets[:, 1:]
    rows = span + offsets[:, :1]
    padded = pad(images, (padding,) * 4)
    rows, columns = rows.to(images.device), columns.to(images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indexing puts the channel, kept as a slice between them, last.
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _resized_crop(images: Tensor, draws: Tensor, *, low: float, high: float, mirrored: Tensor) -> Tensor:
    size = images.shape[-1]
    heights, widths = _crop_sides(draws[:, 3:].double(), size=size, low=low, high=high)
    tops, lefts = ((draws[:, 1 + i].double() * (size - side + 1)).floor() for i, side in enumerate((heights, widths)))
    if images.device.type == "cpu" and size > DENSE_PIXELS:
        boxes = zip(*(one.long().tolist() for one in (tops, heights, lefts, widths)), strict=True)
        return _mirror(_enlarge_one_by_one(images, boxes), mirrored)
    tops, heights, lefts, widths = (one.to(images.device) for one in (tops, heights, lefts, widths))
    vertical, horizontal = bicubic(tops, heights, size=size), bicubic(lefts, widths, size=size)
    horizontal = torch.where(mirrored.to(images.device)[:, None, None], horizontal.flip(1), horizontal)
    # Rounded after each direction, as Pillow does: overshoot at an edge is cut before the second one spreads it.
    widened = (images.float() @ horizontal[:, None].transpose(-1, -2)).round_().clamp_(0, 255)
    return (vertical[:, None] @ widened).round_().clamp_(0, 255).to(torch.uint8)


def _enlarge_one_by_one(images: Tensor, boxes: Iterable[tuple[int, int, int, int]]) -> Tensor:
    """Return boxes (top, height, left, width), enlarged with torch's port of Pillow's filter for bytes on a CPU."""
    size = images.shape[-1]
    parts = [
        interpolate(one[None, :, top : top + height, left : left + width], (size, size), mode="bicubic", antialias=True)
        for one, (top, height, left, width) in zip(images, boxes, strict=True)
    ]
    return torch.cat(parts)


def _mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)


def _crop_sides(draws: Tensor, *, size: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return heights and widths: the first of ten random shapes that fits into the image, else the whole image."""
    area = size**2 * (low + (high - low) * draws[:, :CROP_ATTEMPTS])
    log_low, log_high = (torch.tensor(ratio, dtype=torch.float64).log() for ratio in CROP_RATIO)
    ratio = (log_low + (log_high - log_low) * draws[:, CROP_ATTEMPTS:]).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    whole = torch.full((len(draws), 1), float(size), dtype=torch.float64)
    widths, heights = torch.cat([widths, whole], dim=1), torch.cat([heights, whole], dim=1)
    fits = (widths <= size) & (heights <= size) & (widths >= 1) & (heights >= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    return heights.gather(1, first).flatten(), widths.gather(1, first).flatten()


def bicubic(starts: Tensor, lengths: Tensor, *, size: int) -> Float32[Tensor, "b size size"]:
    """Return matrices that enlarge ``lengths`` pixels (b) from ``starts`` (b) on to ``size`` pixels.

    Pillow's bicubic filter (a = -0.5): weights outside the crop are cut off and the rest sums to 1, as when Pillow
    resizes the cropped image. Computed in float64; both inputs are whole numbers in float64, on the device asked for.
    """
    device = starts.device
    pixel = torch.arange(size, dtype=torch.float64, device=device)
    centres = starts[:, None] + (pixel + 0.5) * (lengths / size)[:, None]
    first = (centres - 2.5).floor() + 1
    taps = first[:, :, None] + torch.arange(TAPS, dtype=torch.float64, device=device)
    distance = (taps + 0.5 - centres[:, :, None]).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * ((taps >= starts[:, None, None]) & (taps < (starts + lengths)[:, None, None]))
    weights = (weights / weights.sum(dim=-1, keepdim=True)).float()
    # Taps lie up to TAPS pixels outside the image, with weight 0: a wider matrix takes them and is cut.
    wide = torch.zeros(len(starts), size, size + 2 * TAPS, device=device)
    return wide.scatter_(2, taps.long() + TAPS, weights)[:, :, TAPS:-TAPS].contiguous()
