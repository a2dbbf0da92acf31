"""Evaluation of an objective: predictions of every image, in float32.

The model sees every split in the same blocks of images, the last one filled up. Matrix products of other shapes may sum
in another order, so blocks of another size could change the last bits of a score, and with them a prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from randlora.data.augment import normalise
from randlora.tasks.base import ImageObjective
from runners.trainer import DivergenceError

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float32, Int64

    from randlora.data.decode import DecodedSplit

BLOCK = 100  # images per forward pass, on every machine


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model said of every image.

    Attributes:
        labels: the true classes.
        predicted: the classes with the highest score.
        probability: softmax probability of the true class, at the score's own scale.
    """

    labels: Int64[torch.Tensor, " n"]
    predicted: Int64[torch.Tensor, " n"]
    probability: Float32[torch.Tensor, " n"]

    def top1(self) -> float:
        """Return the share of images whose predicted class is the true one."""
        return (self.predicted == self.labels).double().mean().item()

    def frame(self) -> pd.DataFrame:
        """Return one row per image, in the order of the split."""
        import pandas as pd

        columns = {"label": self.labels, "predicted": self.predicted, "probability": self.probability}
        return pd.DataFrame({name: tensor.numpy() for name, tensor in columns.items()})


@torch.no_grad()
def predict(
    objective: ImageObjective,
    split: DecodedSplit,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int,
    device: torch.device,
) -> Predictions:
    """Return predictions for a decoded split, without augmentation.

    Images reach the device ``batch_size`` at a time, rounded to whole blocks of ``BLOCK``; no bit depends on it.

    Raises:
        DivergenceError: if a score is not finite: its largest would mean nothing.
    """
    objective.eval()
    classifier = objective.classifier()
    scores = [
        objective.logits(block, classifier)[:real].float().cpu()
        for images in split.blocks(max(1, batch_size // BLOCK) * BLOCK)
        for block, real in _blocks(normalise(images.to(device), mean, std))
    ]
    logits = torch.cat(scores)
    if not logits.isfinite().all():
        raise DivergenceError("the scores are not finite after training; lower the learning rate or the scale")
    probability = logits.softmax(1).gather(1, split.labels[:, None]).squeeze(1)
    return Predictions(labels=split.labels, predicted=logits.argmax(1), probability=probability)


def _blocks(images: Float32[torch.Tensor, "n 3 s s"]) -> Iterator[tuple[Float32[torch.Tensor, "block 3 s s"], int]]:
    """Yield blocks of images, the last one filled up with black, and how many of each are real."""
    for block in images.split(BLOCK):
        missing = BLOCK - len(block)
        yield torch.nn.functional.pad(block, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else block, len(block)
