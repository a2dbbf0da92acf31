"""How a model is trained on images: every hyper-parameter that is neither the method's nor the data set's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from randlora.checks import check_choice, check_flag, check_share, check_whole
from randlora.data.augment import Augmentation, Crop
from randlora.tasks.base import ImageTask
from randlora.training import Training

Pixels = Literal["stored", "original"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """Data budget, optimisation and evaluation of a run on images.

    With ``negatives: batch``, ``micro_batch_size`` also limits the negatives.

    Attributes:
        task: objective and head.
        shots: training images per class; None uses ``fraction``.
        fraction: share of the training images when ``shots`` is None.
        epochs_by_dataset: without ``shots``, take the number of epochs from the data set, which states its own (paper
            Table 7); runs on few shots always take ``epochs`` (10 in the paper).
        pixels: what training images are cropped from: ``stored`` (decoded and resized once; the crop is enlarged) or
            ``original`` (the full-size image, decoded each time, as torchvision does). Evaluation is the same.
        crop: see :class:`randlora.data.augment.Augmentation`.
        crop_padding: pixels, for ``crop: pad``.
        crop_scale: share of the area, for ``crop: resized``.
        flip: mirror half of the images.
        validation_per_class: how many training images of every class are held out when ``evaluate_on`` is
            ``validation``; 0: judge on the validation part of the data set.
    """

    task: ImageTask
    shots: int | None
    fraction: float
    epochs_by_dataset: bool
    pixels: Pixels
    crop: Crop
    crop_padding: int
    crop_scale: Sequence[float]
    flip: bool
    validation_per_class: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots is not None:
            check_whole(self, "shots")
        check_choice(self, "pixels", ("stored", "original"))
        check_choice(self, "crop", ("none", "pad", "resized"))
        check_share(self, "fraction", zero=False)
        check_whole(self, "crop_padding", "validation_per_class", least=0)
        check_flag(self, "epochs_by_dataset", "flip")
        self._check_pair("crop_scale", "two numbers, 0 < low <= high <= 1", lambda low, high: 0 < low <= high <= 1)

    def for_dataset(self, name: str, *, epochs: int | None) -> Recipe:
        """Return the recipe with the number of epochs it has on a data set that states ``epochs`` of its own, or None.

        Raises:
            ValueError: if the recipe takes them from the data set and the data set states none.
        """
        if not self.epochs_by_dataset or self.shots is not None:
            return dataclasses.replace(self, epochs_by_dataset=False)
        if epochs is None:
            raise ValueError(
                f"dataset {name} states no number of epochs, which the recipe takes from it without shots; set "
                "recipe.epochs_by_dataset=false recipe.epochs=… or dataset.epochs=…"
            )
        return dataclasses.replace(self, epochs=epochs, epochs_by_dataset=False)

    @property
    def augmentation(self) -> Augmentation:
        """How training images are altered."""
        low, high = self.crop_scale
        return Augmentation(crop=self.crop, crop_padding=self.crop_padding, crop_scale=(low, high), flip=self.flip)
