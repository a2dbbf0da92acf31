"""What runs on questions take, their texts taken to be of one length: a step, and reading and writing an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses import FakeTensorMode

from results.bench_record import StepMemory
from runners.plan import QuestionRun
from runners.planning.forecast import NOTHING, Forecast, Job
from runners.planning.predict import BLOCKS, Prediction, PredictionError, fake_copy, predict, skeleton_of
from runners.planning.shapes import DeviceKind, Precision, TextStep
from runners.planning.tracker import StepTracker

if TYPE_CHECKING:
    from randlora.backbones.base import LanguageBackbone
    from runners.planning.cells import PlannedCell

PARTS = tuple(one.name for one in dataclasses.fields(StepMemory) if one.name != "step_peak_bytes")
PROBE = 8  # tokens of the short texts whose operations tell those of longer ones


class TextSteps:
    """See :class:`runners.planning.forecast.Steps`; for a kind of device and a precision."""

    def __init__(self, *, device: DeviceKind, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self._steps: dict[str, Prediction] = {}

    def jobs(self, cells: Sequence[PlannedCell]) -> list[Job]:
        """See :class:`runners.planning.forecast.Steps`."""
        shapes = {shape.key: shape for cell in cells if cell.trained for shape in [self._shape(cell)]}
        backbones = {repr(_run(cell).backbone): _run(cell).backbone for cell in cells}
        readings: list[Job] = [("", partial(_reading, one)) for one in backbones.values()]
        return [*readings, *((key, partial(self._learn, key, shape)) for key, shape in shapes.items())]

    def trained(self, cell: PlannedCell) -> Forecast:
        """See :class:`runners.planning.forecast.Steps`."""
        group = self._shape(cell).key
        if group not in self._steps:
            return dataclasses.replace(NOTHING, group=group)
        step = self._steps[group]
        return Forecast(
            group=group,
            step_flops=step.flops,
            step_products=step.products,
            train_flops=None if cell.work.steps is None else step.flops * cell.work.steps,
            eval_flops=None,
            peak_bytes=step.peak_bytes,
            parts={name: getattr(step.memory, name) for name in PARTS} | {"images_bytes": 0},
        )

    def judged(self, cell: PlannedCell) -> float | None:
        """See :class:`runners.planning.forecast.Steps`.

        Every prompt is taken to have the length of the training texts, and every answer that is generated to take all
        the tokens it may. The options of the likelihood are a few tokens each and are left out.
        """
        if cell.work.judged_samples is None:
            return None
        run, reading = _run(cell), _reading(_run(cell).backbone)
        protocol, prompt = run.recipe.task.protocol, cell.work.size
        each = 0.0
        if "generation" in protocol.scorers:
            # the last token of the prompt is read by every beam
            written = range(prompt, prompt + protocol.max_new_tokens)
            each += reading.text(prompt - 1) + protocol.beams * sum(reading.token(behind) for behind in written)
        if "likelihood" in protocol.scorers:
            each += reading.text(prompt)
        return cell.work.judged_samples * each

    def _learn(self, key: str, shape: TextStep) -> None:
        if shape.backbone.packed:
            raise PredictionError(
                f"backbone {shape.backbone.name}: quantised weights have no prediction; it needs backbone.quantize=null"
            )
        self._steps[key] = predict(shape)

    def _shape(self, cell: PlannedCell) -> TextStep:
        run = _run(cell)
        return TextStep(
            backbone=run.backbone,
            method=run.solution.method,
            recipe=run.recipe,
            tokens=cell.work.size,
            execution=run.machine.execution,
            recompute_blocks=run.machine.recompute_blocks,
            device=self.device,
            precision=self.precision,
        )


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Operations of a model without adapters.

    Attributes:
        body: of a token in its blocks.
        head: of the scores after a token.
        pair: of a pair of tokens in attention.
    """

    body: float
    head: float
    pair: float

    def text(self, tokens: int) -> float:
        """Return those of a text with the scores after its last token."""
        return tokens * self.body + self.head + tokens**2 * self.pair

    def token(self, behind: int) -> float:
        """Return those of one more token with its scores, itself among the ``behind`` that it sees."""
        return self.body + self.head + behind * self.pair


_known: dict[str, _Reading] = {}


def _reading(backbone: LanguageBackbone) -> _Reading:
    key = repr(backbone)
    if key not in _known:
        depth = backbone.like_blocks
        if depth is None:
            _known[key] = _counted_reading(backbone)
        else:
            one, two = (_counted_reading(backbone.with_blocks(count)) for count in (1, 2))
            pairs = {
                field.name: (getattr(one, field.name), getattr(two, field.name)) for field in dataclasses.fields(one)
            }
            _known[key] = _Reading(**{name: low + (high - low) * (depth - 1) for name, (low, high) in pairs.items()})
    return _known[key]


def _counted_reading(backbone: LanguageBackbone) -> _Reading:
    """Count short texts with the scores after every token and after the last alone."""
    found = []
    for keep in (0, 1):
        tracker = StepTracker(block=BLOCKS["cpu"], most_distinct=1)
        with FakeTensorMode(), tracker, torch.no_grad():
            model: Any = fake_copy(skeleton_of(backbone)).eval()
            ids = torch.zeros(1, PROBE, dtype=torch.int64)
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=keep)
        found.append((tracker.products, tracker.attention))
    (whole, attention), (last, _) = found
    head = (whole - last) / (PROBE - 1)
    return _Reading(body=(last - head) / PROBE, head=head, pair=attention / PROBE**2)


def _run(cell: PlannedCell) -> QuestionRun:
    assert isinstance(cell.run, QuestionRun)
    return cell.run
