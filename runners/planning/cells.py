"""The cells of a table as runs that are checked and counted, and not started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from randlora.data.prepared import PreparedStore
from results.measures import value_of
from results.record import Key, Record
from runners.compose import ConfigError
from runners.plan import ImageRun
from runners.planning.predict import skeleton_of

if TYPE_CHECKING:
    from randlora.backbones.base import ImageBackbone
    from randlora.data.images import ImageDataset
    from results.table import Planned
    from runners.tables import PlannedTable

State = Literal["ok", "missing", "failed", "skipped", "stale"]
STATES: tuple[State, ...] = ("ok", "missing", "failed", "skipped", "stale")


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much a run computes.

    Attributes:
        steps: optimizer steps; None where the number of training images is not known.
        train_images: distinct training images.
        seen_images: images that pass through the model in training, repeats counted.
        judged_images: images that are evaluated.
        pixels: side of an image.
    """

    steps: int | None
    train_images: int | None
    seen_images: int | None
    judged_images: int | None
    pixels: int


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell.

    Attributes:
        planned: its labels, id and key.
        state: what the records say of it.
        run: the run, composed and checked.
        head: trained parameters of the head.
        work: how much it computes.
        record: of a run that is done, else None.
    """

    planned: Planned
    state: State
    run: ImageRun
    head: int
    work: Work
    record: Record | None

    @property
    def trained(self) -> int:
        """Trained parameters, the head's among them."""
        return self.run.solution.reached + self.head

    @property
    def is_open(self) -> bool:
        """Whether a sweep would run it; failed cells it runs again."""
        return self.state != "ok"


class Counter:
    """Counts the work of runs; looks each backbone and each data set up once."""

    def __init__(self) -> None:
        self._pixels: dict[ImageBackbone, int] = {}
        self._heads: dict[tuple[ImageBackbone, str, int], int] = {}
        self._sizes: dict[tuple[str, str, int], dict[str, int | None]] = {}

    def work(self, run: ImageRun) -> Work:
        """Return how much a run computes; nothing is trained where nothing trains."""
        recipe, pixels = run.recipe, self.pixels(run.backbone)
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
        if self.head(run) + run.solution.reached == 0:
            return Work(steps=0, train_images=n, seen_images=0, judged_images=judged, pixels=pixels)
        if n is None:
            return Work(steps=None, train_images=None, seen_images=None, judged_images=judged, pixels=pixels)
        plan = recipe.plan(n, seed=run.seed)
        steps = recipe.total_steps(plan)
        whole, rest = divmod(steps, plan.steps_per_epoch)
        seen = whole * plan.samples_per_epoch + min(rest * recipe.batch_size, plan.samples_per_epoch)
        return Work(steps=steps, train_images=n, seen_images=seen, judged_images=judged, pixels=pixels)

    def pixels(self, backbone: ImageBackbone) -> int:
        """Return the side of a backbone's images."""
        if backbone not in self._pixels:
            self._pixels[backbone] = backbone.image_size(skeleton_of(backbone))
        return self._pixels[backbone]

    def head(self, run: ImageRun) -> int:
        """Return the trained parameters of a run's head."""
        key = (run.backbone, repr(run.recipe.task), len(run.dataset.classes))
        if key not in self._heads:
            skeleton = skeleton_of(run.backbone) if run.recipe.task.has_head else None
            self._heads[key] = (
                0
                if skeleton is None
                else run.recipe.task.head_size(backbone=run.backbone, model=skeleton, n_classes=key[2])
            )
        return self._heads[key]

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


def plan_cells(table: PlannedTable, records: Mapping[str, Record]) -> tuple[PlannedCell, ...]:
    """Return the cells of a table: the first one of every run.

    Raises:
        ConfigError: naming the cell, if its run cannot be meant.
    """
    old_keys = {record.key for id, record in records.items() if id not in table.runs}
    metrics: dict[str, set[str]] = {}
    for one in table.planned:
        metrics.setdefault(one.id, set()).add(one.cell.metric)
    counter = Counter()
    cells = []
    for planned in table.runs.values():
        try:
            run = table.check(planned.id)
        except ConfigError as error:
            labels = ", ".join(planned.cell.labels.values())
            raise ConfigError(f"table {table.spec.name}, cell {labels}: {error}") from error
        if not isinstance(run, ImageRun):
            raise ConfigError(f"table {table.spec.name} has runs on questions; randlora plan knows runs on images only")
        record = records.get(planned.id)
        cells.append(
            PlannedCell(
                planned=planned,
                state=_state(record, planned.key, old_keys, metrics[planned.id]),
                run=run,
                head=counter.head(run),
                work=counter.work(run),
                record=record if record is not None and record.status == "ok" else None,
            )
        )
    return tuple(cells)


def _state(record: Record | None, key: Key, old_keys: set[Key], metrics: set[str]) -> State:
    if record is None:
        return "stale" if key in old_keys else "missing"
    if record.status == "ok" and any(value_of(record, metric) is None for metric in metrics):
        return "failed"
    return record.status


def _stated(dataset: ImageDataset, part: str) -> int | None:
    return None if dataset.sizes is None else dataset.size_of(part)  # type: ignore[arg-type]
