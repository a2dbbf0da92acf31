"""What runs on images take: a step at the fewest and at the most classes, and an evaluation per image and per class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch._subclasses import FakeTensorMode

from randlora.tasks.base import Vocabulary
from results.bench_record import StepMemory
from runners.plan import ImageRun
from runners.planning.forecast import NOTHING, Forecast, Job
from runners.planning.predict import BLOCKS, Prediction, fake_copy, predict, skeleton_of
from runners.planning.shapes import DeviceKind, ImageStep, Precision, with_blank_texts
from runners.planning.tracker import StepTracker

if TYPE_CHECKING:
    from runners.planning.cells import PlannedCell

MIB = 2**20
PARTS = tuple(one.name for one in dataclasses.fields(StepMemory) if one.name != "step_peak_bytes")


class ImageSteps:
    """See :class:`runners.planning.forecast.Steps`; for a kind of device and a precision."""

    def __init__(self, *, device: DeviceKind, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self._curves: dict[str, _Curve] = {}

    def jobs(self, cells: Sequence[PlannedCell]) -> list[Job]:
        """See :class:`runners.planning.forecast.Steps`."""
        needed: dict[str, tuple[ImageStep, set[int]]] = {}
        judged: dict[str, PlannedCell] = {}
        for cell in cells:
            judged.setdefault(_evaluation_key(_run(cell)), cell)
            if cell.trained:
                shape = self._shape(cell)
                needed.setdefault(_group(shape), (shape, set()))[1].add(shape.classes)
        evaluations: list[Job] = [("", partial(_evaluation, cell)) for cell in judged.values()]
        return [*evaluations, *((group, partial(self._learn, group, *one)) for group, one in needed.items())]

    def trained(self, cell: PlannedCell) -> Forecast:
        """See :class:`runners.planning.forecast.Steps`."""
        shape = self._shape(cell)
        group, classes = _group(shape), shape.classes
        if group not in self._curves:
            return dataclasses.replace(NOTHING, group=group)
        curve = self._curves[group]
        step, kept = curve.at(classes, "flops"), _kept_images(cell)
        return Forecast(
            group=group,
            step_flops=step,
            step_products=curve.at(classes, "products"),
            train_flops=None if cell.work.steps is None else step * cell.work.steps,
            eval_flops=None,
            peak_bytes=round(curve.at(classes, "peak_bytes")) + kept,
            parts={name: round(curve.at(classes, name)) for name in PARTS} | {"images_bytes": kept},
        )

    def judged(self, cell: PlannedCell) -> float | None:
        """See :class:`runners.planning.forecast.Steps`."""
        dataset = _run(cell).dataset
        if cell.work.judged_samples is None:
            return None
        return _evaluation(cell).flops(cell.work.judged_samples, len(dataset.classes), len(dataset.templates))

    def _learn(self, group: str, shape: ImageStep, classes: set[int]) -> None:
        self._curves[group] = _Curve.of(shape, classes)

    def _shape(self, cell: PlannedCell) -> ImageStep:
        run = _run(cell)
        return ImageStep(
            backbone=run.backbone,
            method=run.solution.method,
            recipe=run.recipe,
            classes=len(run.dataset.classes),
            execution=run.machine.execution,
            recompute_blocks=run.machine.recompute_blocks,
            device=self.device,
            precision=self.precision,
        )


def _kept_images(cell: PlannedCell) -> int:
    """Return the bytes of training images that stay on the device."""
    if cell.work.train_samples is None or _run(cell).recipe.pixels != "stored":
        return 0
    size = cell.work.train_samples * 3 * cell.work.size**2
    return size if size <= cell.run.machine.resident_mib * MIB else 0


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A step at the fewest and the most classes; in between everything is taken to be linear."""

    low: tuple[int, Prediction]
    high: tuple[int, Prediction]
    most: int | None

    @classmethod
    def of(cls, shape: ImageStep, classes: set[int]) -> _Curve:
        most = max(classes)
        high = predict(shape.with_classes(most))
        limit = shape.micro_batch if high.by_batch else None
        effective = {one if limit is None else min(one, limit) for one in classes}
        least, top = min(effective), max(effective)
        low = high if least == top else predict(shape.with_classes(least))
        return cls(low=(least, low), high=(top, high), most=limit)

    def at(self, classes: int, name: str) -> float:
        """Return a number of the prediction or its memory at a number of classes."""
        (x0, low), (x1, high) = self.low, self.high
        y0, y1 = low.number(name), high.number(name)
        x = classes if self.most is None else min(classes, self.most)
        return y1 if x0 == x1 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """Operations of an evaluation: per image, per class, and per class and template."""

    image: float
    head: float
    text: float

    def flops(self, images: int, classes: int, templates: int) -> float:
        return images * self.image + classes * (self.head + templates * self.text)


_known: dict[str, _Evaluation] = {}


def _evaluation(cell: PlannedCell) -> _Evaluation:
    key = _evaluation_key(_run(cell))
    if key not in _known:
        _known[key] = _counted_evaluation(_run(cell), cell.work.size)
    return _known[key]


def _counted_evaluation(run: ImageRun, pixels: int) -> _Evaluation:
    """Count two small evaluations of merged weights, with one template and with two; they are linear in the rest."""
    n, task, backbone = 2, run.recipe.task, with_blank_texts(run.backbone)
    skeleton = skeleton_of(run.backbone)
    image, texts = 0, []
    for templates in (1, 2):
        tracker = StepTracker(block=BLOCKS["cpu"], most_distinct=n)
        with FakeTensorMode(), tracker, torch.no_grad():
            model = fake_copy(skeleton)
            names = [str(number) for number in range(n)]
            prompts = [f"{number} {{class}}" for number in range(templates)]
            vocabulary = Vocabulary(classes=names, prompt=prompts[0], templates=prompts)
            objective = task.build(backbone=backbone, model=model, vocabulary=vocabulary, seed=0).eval()
            classifier = objective.classifier()
            texts.append(tracker.flops)
            objective.logits(torch.randn(n, 3, pixels, pixels), classifier)
            image = tracker.flops - texts[-1]
    text = texts[1] - texts[0]
    return _Evaluation(image=image / n, head=(texts[0] - text) / n, text=text / n)


def _evaluation_key(run: ImageRun) -> str:
    return repr((run.backbone, run.recipe.task))


def _group(shape: ImageStep) -> str:
    return shape.with_classes(0).key


def _run(cell: PlannedCell) -> ImageRun:
    assert isinstance(cell.run, ImageRun)
    return cell.run
