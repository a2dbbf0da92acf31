"""Which samples form which batch and how they are altered: pure functions of seed and step, with no state to resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from randlora.seeds import generator_for, seed_for

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, UInt8
    from torch import Tensor

Crop = Literal["none", "pad", "resized"]
CROP_ATTEMPTS = 10
CROP_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The batches of a whole training run.

    An epoch shorter than ``min_steps_per_epoch`` batches (n / batch_size of them, not rounded) is drawn from the index
    list repeated ``int(min_steps_per_epoch / batches) + 1`` times, as in the paper's released code (section 4). The
    last batch of an epoch holds what is left over.

    Attributes:
        n: number of training samples.
        batch_size: samples per optimiser step.
        epochs: passes over the (repeated) index list.
        min_steps_per_epoch: oversampling threshold; 0 switches it off.
        seed: seed of the run.
        replacement: draw with replacement (the paper) instead of shuffling.
    """

    n: int
    batch_size: int
    epochs: int
    min_steps_per_epoch: int
    seed: int
    replacement: bool

    def __post_init__(self) -> None:
        for field, least in (("n", 1), ("batch_size", 1), ("epochs", 1), ("min_steps_per_epoch", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"batch plan: {field} is {getattr(self, field)}; it starts at {least}")

    @property
    def repeats(self) -> int:
        """How often an epoch's index list repeats the samples."""
        if self.n >= self.min_steps_per_epoch * self.batch_size:
            return 1
        return self.min_steps_per_epoch * self.batch_size // self.n + 1

    @property
    def samples_per_epoch(self) -> int:
        """Draws of one epoch."""
        return self.n * self.repeats

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch, the incomplete last one included."""
        return -(-self.samples_per_epoch // self.batch_size)

    @property
    def total_steps(self) -> int:
        """Batches of the whole run."""
        return self.epochs * self.steps_per_epoch

    def indices(self, step: int) -> Int64[Tensor, " b"]:
        """Return the positions, below ``n``, of the samples in batch ``step`` (from 0).

        Raises:
            IndexError: for a step outside the run.
        """
        epoch, first, last = self._span(step)
        order = epoch_order(self.samples_per_epoch, epoch, self.seed, replacement=self.replacement)
        return order[first:last] % self.n

    def augment_seeds(self, step: int) -> tuple[int, ...]:
        """Return one seed for each sample of batch ``step``, for ``augment``.

        A seed belongs to the draw (its epoch and its place in the epoch's order), so a sample drawn twice is altered
        differently, and nothing changes when a batch is processed in parts.
        """
        epoch, first, last = self._span(step)
        return tuple(seed_for(self.seed, "augment", epoch, place) for place in range(first, last))

    def _span(self, step: int) -> tuple[int, int, int]:
        if not 0 <= step < self.total_steps:
            raise IndexError(f"batch plan: there is no step {step}; this run has steps 0 to {self.total_steps - 1}")
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = batch * self.batch_size
        return epoch, first, min(first + self.batch_size, self.samples_per_epoch)


def epoch_order(n: int, epoch: int, seed: int, *, replacement: bool = False) -> Int64[Tensor, " n"]:
    """Return the order of ``n`` samples in an epoch: a permutation, or ``n`` independent draws."""
    generator = generator_for(seed, "order", epoch)
    if replacement:
        return torch.randint(n, (n,), generator=generator)
    return torch.randperm(n, generator=generator)


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
    return (images.float() / 255 - shift) / scale


def augment(
    images: UInt8[Tensor, "b 3 s s"],
    seeds: Sequence[int],
    *,
    crop: Crop,
    crop_padding: int,
    crop_scale: tuple[float, float],
    flip: bool,
) -> UInt8[Tensor, "b 3 s s"]:
    """Return randomly cropped and mirrored copies of square images, on their device.

    ``crop`` is ``none``; ``pad``: ``crop_padding`` black pixels on every side, then a random crop of the old size; or
    ``resized``: a random part of ``crop_scale`` of the area with sides in a ratio of 3/4 to 4/3, resized with Pillow's
    bicubic filter (the paper: scale 0.5 to 1, section 6). ``flip`` mirrors half of the images left to right. Random
    numbers come from one CPU generator per sample, so an image's result depends on its own seed alone.

    Raises:
        ValueError: for images that are not square, a wrong number of seeds, or a setting outside its range.
    """
    low, high = crop_scale
    if images.shape[-1] != images.shape[-2] or len(seeds) != len(images):
        raise ValueError(
            f"augment: {len(seeds)} seeds for images of shape {tuple(images.shape)}; give square images, a seed each"
        )
    if crop not in get_args(Crop) or crop_padding < 0 or not 0 < low <= high <= 1:
        raise ValueError(
            f"augment(crop={crop!r}, crop_padding={crop_padding}, crop_scale={(low, high)}): crop is one of "
            f"{get_args(Crop)}, the padding at least 0, the scale two numbers with 0 < low <= high <= 1"
        )
    draws = torch.stack([torch.rand(3 + 2 * CROP_ATTEMPTS, generator=torch.Generator().manual_seed(s)) for s in seeds])
    mirrored = draws[:, 0] < 0.5 if flip else torch.zeros(len(images), dtype=torch.bool)
    if crop == "resized":
        return _resized_crop(images, draws, low=low, high=high, mirrored=mirrored)
    padding = crop_padding if crop == "pad" else 0
    return _padded_crop(images, draws, padding=padding, mirrored=mirrored)


def _padded_crop(images: Tensor, draws: Tensor, *, padding: int, mirrored: Tensor) -> Tensor:
    size = images.shape[-1]
    offsets = (draws[:, 1:3] * (2 * padding + 1)).long()
    span = torch.arange(size)
    columns = torch.where(mirrored[:, None], span.flip(0), span) + offsets[:, 1:]
    rows = span + offsets[:, :1]
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows, columns = rows.to(images.device), columns.to(images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indexing puts the channel, kept as a slice between them, last.
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _resized_crop(images: Tensor, draws: Tensor, *, low: float, high: float, mirrored: Tensor) -> Tensor:
    size = images.shape[-1]
    heights, widths = _crop_sides(draws[:, 3:].double(), size=size, low=low, high=high)
    tops, lefts = ((draws[:, 1 + i].double() * (size - side + 1)).floor() for i, side in enumerate((heights, widths)))
    vertical = _bicubic(tops, heights, size=size)
    horizontal = _bicubic(lefts, widths, size=size)
    horizontal = torch.where(mirrored[:, None, None], horizontal.flip(1), horizontal)
    vertical, horizontal = (m.float().to(images.device)[:, None] for m in (vertical, horizontal))
    # Rounded after each direction, as Pillow does: overshoot at an edge is cut before the second one spreads it.
    widened = (images.float() @ horizontal.transpose(-1, -2)).round().clamp(0, 255)
    return (vertical @ widened).round().clamp(0, 255).to(torch.uint8)


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


def _bicubic(starts: Tensor, lengths: Tensor, *, size: int) -> Tensor:
    """Return matrices (b, size, size) that enlarge ``lengths`` pixels from ``starts`` on to ``size`` pixels.

    Pillow's bicubic filter (a = -0.5): weights outside the crop are cut off and the rest sums to 1, as when Pillow
    resizes the cropped image.
    """
    pixel = torch.arange(size, dtype=torch.float64)
    centres = starts[:, None] + (pixel + 0.5) * (lengths / size)[:, None]
    distance = (pixel + 0.5 - centres[:, :, None]).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    inside = (pixel >= starts[:, None]) & (pixel < (starts + lengths)[:, None])
    weights = weights * inside[:, None, :]
    return weights / weights.sum(dim=-1, keepdim=True)
