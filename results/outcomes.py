"""Which test samples a run got right: outcomes per sample, from the predictions that a run keeps."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from results.record import Record
from results.store import RecordStore, StoreError

if TYPE_CHECKING:
    import pandas

_TOP1 = "top1"
_HELD_OUT = "validation/top1"  # of images that each seed draws anew: equal labels are not equal images
_ANSWERS = {"accuracy": "extracted", "likelihood": "likelihood", "likelihood_normalised": "likelihood_normalised"}


class NoOutcomesError(ValueError):
    """A run has no outcome per sample for a metric; the message says why, in words that several runs may share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """One run's outcomes in the order of its test samples. `samples` tells which samples they are."""

    samples: str
    right: Any
    """A numpy array of booleans."""


class OutcomeReader:
    """Reads the outcomes of the runs of a store, each once."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._frames: dict[str, pandas.DataFrame | NoOutcomesError] = {}
        self._known: dict[tuple[str, str], Outcomes | NoOutcomesError] = {}

    def read(self, record: Record, metric: str) -> Outcomes:
        """Return the outcomes behind a metric of a record; NoOutcomesError where there are none.

        Predictions whose mean is not the recorded metric are refused: they are not those of the record.
        """
        key = (record.id, metric)
        if key not in self._known:
            try:
                self._known[key] = self._read(record, metric)
            except NoOutcomesError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, NoOutcomesError):
            raise found
        return found

    def frame(self, id: str) -> pandas.DataFrame:
        """Return the predictions of a run; NoOutcomesError where there are none."""
        if id not in self._frames:
            try:
                self._frames[id] = self._store.read_predictions(id)
            except StoreError as error:
                missing = not (self._store.folder(id) / "predictions.parquet").exists()
                text = "no predictions.parquet beside the record" if missing else str(error)
                self._frames[id] = NoOutcomesError(text)
        found = self._frames[id]
        if isinstance(found, NoOutcomesError):
            raise found
        return found

    def _read(self, record: Record, metric: str) -> Outcomes:
        found = outcomes_of(self.frame(record.id), metric)
        recorded = record.metrics.get(metric)
        # the metric was a mean of the same numbers, added in another order
        if recorded is None or not math.isclose(float(found.right.mean()), recorded, rel_tol=1e-9, abs_tol=1e-9):
            raise NoOutcomesError(f"the predictions do not add up to the recorded {metric}")
        if metric == _HELD_OUT:
            return replace(found, samples=f"{found.samples} of seed {record.key.seed}")
        return found


def outcomes_of(frame: pandas.DataFrame, metric: str) -> Outcomes:
    """Return the outcome of each sample that a metric is the mean of.

    Images: `<split>/top1`, from the columns label and predicted. Questions: `<task>/accuracy`, `/likelihood` and
    `/likelihood_normalised`, from the answer and what the scorer made of it. Raises NoOutcomesError for any other
    metric: an average over tasks, a probability, a cost, chance.
    """
    part, _, name = metric.rpartition("/")
    if {"label", "predicted"} <= set(frame) and name == _TOP1:
        return _outcomes(frame, said="predicted", true="label", identity=["label"])
    if "task" in frame and name in _ANSWERS and _ANSWERS[name] in frame:
        rows = frame[frame["task"] == part]
        if len(rows):
            return _outcomes(rows, said=_ANSWERS[name], true="answer", identity=["index", "answer"])
    raise NoOutcomesError(f"{metric} is no mean of outcomes per sample")


def _outcomes(frame: pandas.DataFrame, *, said: str, true: str, identity: list[str]) -> Outcomes:
    text = frame[identity].to_csv(index=False)
    samples = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Outcomes(samples=samples, right=(frame[said] == frame[true]).to_numpy(dtype=bool))
