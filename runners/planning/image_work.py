"""The work of runs on images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from randlora.data.prepared import PreparedStore
from runners.plan import ImageRun, Run
from runners.planning.predict import skeleton_of
from runners.planning.work import Work, work_of

if TYPE_CHECKING:
    from randlora.backbones.base import ImageBackbone
    from randlora.data.images import ImageDataset


class ImageCounter:
    """See :class:`runners.planning.work.WorkCounter`."""

    def __init__(self) -> None:
        self._pixels: dict[ImageBackbone, int] = {}
        self._heads: dict[tuple[ImageBackbone, str, int], int] = {}
        self._sizes: dict[tuple[str, str, int], dict[str, int | None]] = {}

    def work(self, run: Run) -> Work:
        """See :class:`runners.planning.work.WorkCounter`."""
        assert isinstance(run, ImageRun)
        recipe, pixels = run.recipe, self._pixels_of(run.backbone)
        own_validation = recipe.evaluate_on == "validation" and recipe.validation_per_class == 0
        dataset = run.dataset.without_validation() if own_validation else run.dataset
        sizes = self._sizes_of(run, dataset, pixels)
        classes = len(dataset.classes)
        held = 0
        judged = sizes[recipe.evaluate_on]
        if recipe.evaluate_on == "validation" and not own_validation:
            held = judged = recipe.validation_per_class * classes
        n: int | None
        if recipe.shots is not None:
            n = recipe.shots * classes
        else:
            n = None if sizes["train"] is None else round(recipe.fraction * (sizes["train"] - held))
        trains = self.head(run) + run.solution.reached > 0
        return work_of(run, samples=n, judged=judged, trains=trains, size=pixels)

    def head(self, run: Run) -> int:
        """See :class:`runners.planning.work.WorkCounter`."""
        assert isinstance(run, ImageRun)
        key = (run.backbone, repr(run.recipe.task), len(run.dataset.classes))
        if key not in self._heads:
            skeleton = skeleton_of(run.backbone) if run.recipe.task.has_head else None
            self._heads[key] = (
                0
                if skeleton is None
                else run.recipe.task.head_size(backbone=run.backbone, model=skeleton, n_classes=key[2])
            )
        return self._heads[key]

    def _pixels_of(self, backbone: ImageBackbone) -> int:
        if backbone not in self._pixels:
            self._pixels[backbone] = backbone.image_size(skeleton_of(backbone))
        return self._pixels[backbone]

    def _sizes_of(self, run: ImageRun, dataset: ImageDataset, pixels: int) -> dict[str, int | None]:
        """Return the images of each part: as counted where it is prepared, else as the description states them."""
        key = (dataset.name, dataset.identity, pixels)
        if key not in self._sizes:
            prepared = PreparedStore(folder=run.machine.prepared_path).find(dataset, pixels)
            parts = {} if prepared is None else prepared.parts
            self._sizes[key] = {
                part: parts[part].images if part in parts else _stated(dataset, part)
                for part in ("train", "validation", "test")
            }
        return self._sizes[key]


def _stated(dataset: ImageDataset, part: str) -> int | None:
    return None if dataset.sizes is None else dataset.size_of(part)  # type: ignore[arg-type]
