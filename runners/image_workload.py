"""Images of a run: decoded, chosen, trained on and judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from randlora.tasks.base import ImageObjective, Vocabulary
from runners.evaluate import predict
from runners.plan import ImageRun
from runners.run_data import splits_of
from runners.workload import Judged, Workload

if TYPE_CHECKING:
    import torch
    from torch import nn

    from randlora.data.cache import DecodedCache
    from randlora.data.feed import ImageFeed


class ImageWorkload(Workload):
    """See :class:`runners.workload.Workload`; arguments as of :func:`runners.run_data.splits_of`."""

    def __init__(
        self, run: ImageRun, model: nn.Module, *, cache: DecodedCache, device: torch.device, stop: Callable[[], bool]
    ) -> None:
        self.run = run
        self.device = device
        self.splits = splits_of(run, model, cache=cache, device=device, stop=stop)
        self.digests = self.splits.digests
        self.notes = tuple(
            f"{count} unreadable images of the {split} split were left out"
            for split, count in self.splits.skipped.items()
        )
        words = run.dataset
        vocabulary = Vocabulary(classes=words.classes, prompt=words.prompt, templates=words.templates)
        self.objective: ImageObjective = run.recipe.task.build(
            backbone=run.backbone, model=model, vocabulary=vocabulary, seed=run.seed
        )

    @property
    def feed(self) -> ImageFeed:
        """The training images."""
        return self.splits.train

    def judge(self) -> Judged:
        """Predict the class of each image."""
        look = self.splits.train.look
        found = predict(
            self.objective,
            self.splits.judged,
            mean=look.mean,
            std=look.std,
            batch_size=self.run.machine.evaluation_batch_size,
            device=self.device,
        )
        return Judged(metrics={f"{self.splits.name}/top1": found.top1()}, frame=found.frame())
