"""Predictions for every cell of a table from few steps: a method is predicted once or twice, not once per data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch._subclasses import FakeTensorMode

from randlora.tasks.base import Vocabulary
from results.bench_record import StepMemory
from runners.planning.predict import BLOCKS, Prediction, PredictionError, fake_copy, predict, skeleton_of
from runners.planning.step import DeviceKind, Precision, StepShape, with_blank_texts
from runners.planning.tracker import StepTracker

if TYPE_CHECKING:
    from runners.planning.cells import PlannedCell

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a cell takes.

    Attributes:
        group: equal for cells whose steps differ in the number of classes alone.
        step_flops: operations of one training step at a full batch; None where nothing is trained.
        step_products: those of them that torch counts on every device: without attention.
        train_flops: of all steps; None where their number is not known.
        eval_flops: of the evaluation, the classifier's texts included.
        peak_bytes: the most memory in training, images that are kept on the device included.
        parts: what that peak is made of, by name, in bytes.
    """

    group: str
    step_flops: float | None
    step_products: float | None
    train_flops: float | None
    eval_flops: float | None
    peak_bytes: int | None
    parts: Mapping[str, int]


class Forecaster:
    """Predicts cells for a kind of device and a precision; every distinct step is predicted once."""

    def __init__(self, *, device: DeviceKind, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self.problems: dict[str, str] = {}
        self._curves: dict[str, _Curve] = {}

    def learn(self, cells: Sequence[PlannedCell], *, on_progress: Callable[[int, int], None]) -> None:
        """Predict the steps that these cells need; ``on_progress`` hears how many of how many are done.

        A step that cannot be predicted is in ``problems``, by the group of its cells.
        """
        needed: dict[str, tuple[StepShape, set[int]]] = {}
        judged: dict[str, PlannedCell] = {}
        for cell in cells:
            judged.setdefault(_evaluation_key(cell), cell)
            if cell.trained:
                shape = self._shape(cell)
                needed.setdefault(_group(shape), (shape, set()))[1].add(shape.classes)
        total = len(needed) + len(judged)
        for done, (key, cell) in enumerate(judged.items()):
            on_progress(done, total)
            _evaluation(cell, key)
        for done, (group, (shape, classes)) in enumerate(needed.items(), len(judged)):
            on_progress(done, total)
            try:
                self._curves[group] = _Curve.of(shape, classes)
            except PredictionError as error:
                self.problems[group] = str(error)
        on_progress(total, total)

    def forecast(self, cell: PlannedCell) -> Forecast:
        """Return what a cell takes; the cell is one of those learnt."""
        work, classes = cell.work, len(cell.run.dataset.classes)
        evaluation = _evaluation(cell, _evaluation_key(cell))
        judged = None
        if work.judged_images is not None:
            judged = evaluation.flops(work.judged_images, classes, len(cell.run.dataset.templates))
        nothing = Forecast(
            group="",
            step_flops=None,
            step_products=None,
            train_flops=None,
            eval_flops=judged,
            peak_bytes=None,
            parts={},
        )
        if not cell.trained:
            return dataclasses.replace(nothing, train_flops=0.0)
        group = _group(self._shape(cell))
        if group not in self._curves:
            return dataclasses.replace(nothing, group=group)
        curve = self._curves[group]
        step, kept = curve.at(classes, "flops"), self._kept_images(cell)
        parts = {name: round(curve.at(classes, name)) for name in PARTS} | {"images_bytes": kept}
        return Forecast(
            group=group,
            step_flops=step,
            step_products=curve.at(classes, "products"),
            train_flops=None if work.steps is None else step * work.steps,
            eval_flops=judged,
            peak_bytes=round(curve.at(classes, "peak_bytes")) + kept,
            parts=parts,
        )

    def _shape(self, cell: PlannedCell) -> StepShape:
        run = cell.run
        return StepShape(
            backbone=run.backbone,
            method=run.solution.method,
            recipe=run.recipe,
            classes=len(run.dataset.classes),
            execution=run.machine.execution,
            device=self.device,
            precision=self.precision,
        )

    def _kept_images(self, cell: PlannedCell) -> int:
        """Return the bytes of training images that stay on the device."""
        if cell.work.train_images is None or cell.run.recipe.pixels != "stored":
            return 0
        size = cell.work.train_images * 3 * cell.work.pixels**2
        return size if size <= cell.run.machine.resident_mib * MIB else 0


PARTS = tuple(one.name for one in dataclasses.fields(StepMemory) if one.name != "step_peak_bytes")


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A step at the fewest and the most classes; in between everything is taken to be linear."""

    low: tuple[int, Prediction]
    high: tuple[int, Prediction]
    most: int | None

    @classmethod
    def of(cls, shape: StepShape, classes: set[int]) -> _Curve:
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


def _evaluation(cell: PlannedCell, key: str) -> _Evaluation:
    if key not in _known:
        _known[key] = _counted_evaluation(cell)
    return _known[key]


def _counted_evaluation(cell: PlannedCell) -> _Evaluation:
    """Count two small evaluations of merged weights, with one template and with two; they are linear in the rest."""
    n, task, backbone = 2, cell.run.recipe.task, with_blank_texts(cell.run.backbone)
    skeleton = skeleton_of(cell.run.backbone)
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
            objective.logits(torch.randn(n, 3, cell.work.pixels, cell.work.pixels), classifier)
            image = tracker.flops - texts[-1]
    text = texts[1] - texts[0]
    return _Evaluation(image=image / n, head=(texts[0] - text) / n, text=text / n)


def _evaluation_key(cell: PlannedCell) -> str:
    return repr((cell.run.backbone, cell.run.recipe.task))


def _group(shape: StepShape) -> str:
    return shape.with_classes(0).key
