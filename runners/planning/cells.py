"""The cells of a table as runs that are checked and counted, and not started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from results.measures import value_of
from results.record import Key, Record
from runners.compose import ConfigError
from runners.plan import QuestionRun, Run
from runners.planning.image_work import ImageCounter
from runners.planning.text_work import QuestionCounter

if TYPE_CHECKING:
    from results.table import Planned
    from runners.planning.work import Work, WorkCounter
    from runners.tables import PlannedTable

State = Literal["ok", "missing", "failed", "skipped", "stale"]
STATES: tuple[State, ...] = ("ok", "missing", "failed", "skipped", "stale")


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
    run: Run
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


def plan_cells(
    table: PlannedTable, records: Mapping[str, Record], *, tokens: int | None = None
) -> tuple[PlannedCell, ...]:
    """Return the cells of a table: the first one of every run.

    Args:
        table: the table.
        records: of this machine, by id.
        tokens: length of the texts of runs on questions; None: their cutoff.

    Raises:
        ConfigError: naming the cell, if its run cannot be meant.
    """
    old_keys = {record.key for id, record in records.items() if id not in table.runs}
    metrics: dict[str, set[str]] = {}
    for one in table.planned:
        metrics.setdefault(one.id, set()).add(one.cell.metric)
    images, questions = ImageCounter(), QuestionCounter(tokens=tokens)
    cells = []
    for planned in table.runs.values():
        try:
            run = table.check(planned.id)
            counter: WorkCounter = questions if isinstance(run, QuestionRun) else images
            work, head = counter.work(run), counter.head(run)
        except ConfigError as error:
            labels = ", ".join(planned.cell.labels.values())
            raise ConfigError(f"table {table.spec.name}, cell {labels}: {error}") from error
        record = records.get(planned.id)
        cells.append(
            PlannedCell(
                planned=planned,
                state=_state(record, planned.key, old_keys, metrics[planned.id]),
                run=run,
                head=head,
                work=work,
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
