"""Two folders of records side by side: which runs they share, what differs in origin, and whether the numbers do."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

from results.outcomes import NoOutcomesError, OutcomeReader
from results.record import Key, Record
from results.sample_tests import swap_p, swings_of
from results.statistics import Interval, describe, holm, is_zero, sign_flip_p

State = Literal["identical", "equal metrics", "other predictions", "other metrics", "not ok"]
STATES: Mapping[State, str] = {
    "identical": "metrics and predictions are bitwise equal",
    "equal metrics": "metrics are bitwise equal; a side has no predictions to compare",
    "other predictions": "metrics are bitwise equal, predictions (classes, probabilities, texts) are not",
    "other metrics": "a metric differs",
    "not ok": "failed or skipped on a side",
}


@dataclass(frozen=True, kw_only=True)
class MetricPair:
    """One metric of a matched run on both sides; `p` is McNemar's exact p over test samples, `no_samples` why not."""

    metric: str
    a: float
    b: float
    samples: int | None = None
    a_alone: int | None = None
    b_alone: int | None = None
    p: float | None = None
    p_corrected: float | None = None
    no_samples: str | None = None

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a


@dataclass(frozen=True, kw_only=True)
class MatchedRun:
    """A run that both sides have: under one id, or (`by` key) under one name with another config."""

    a: Record
    b: Record
    by: Literal["id", "key"]
    state: State
    metrics: tuple[MetricPair, ...]


@dataclass(frozen=True, kw_only=True)
class OriginField:
    """One thing in which matched runs differ: how many runs have each value on either side, and how many differ."""

    name: str
    a: Mapping[str, int]
    b: Mapping[str, int]
    differing: int


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """B minus A of one metric over the matched runs: mean, 95 % interval and exact sign-flip test over runs."""

    metric: str
    runs: int
    mean: float
    interval: Interval | None
    p: float | None


@dataclass(frozen=True, kw_only=True)
class RecordSets:
    """The comparison of two record sets."""

    matched: tuple[MatchedRun, ...]
    only_a: tuple[Record, ...]
    only_b: tuple[Record, ...]
    origin: tuple[OriginField, ...]
    config: tuple[OriginField, ...]
    summaries: tuple[MetricSummary, ...]
    family: int

    @property
    def counts(self) -> Mapping[State, int]:
        """How many matched runs are in each state."""
        found = Counter(run.state for run in self.matched)
        return {state: found[state] for state in STATES}


def compare_records(
    a: Mapping[str, Record],
    b: Mapping[str, Record],
    *,
    outcomes: tuple[OutcomeReader, OutcomeReader],
    patterns: Sequence[str] = ("*",),
) -> RecordSets:
    """Compare records, matched by id, in the order of their keys.

    Runs whose id only one side has are matched by key where either side has that key once. `patterns` choose metrics.
    Holm's correction is for all tests over samples.
    """
    pairs: list[tuple[Record, Record, Literal["id", "key"]]] = [(a[id], b[id], "id") for id in a if id in b]
    pairs += [(one, other, "key") for one, other in _by_key(a, b)]
    pairs.sort(key=lambda pair: astuple(pair[0].key))
    matched = [_matched(one, other, by, outcomes, patterns) for one, other, by in pairs]
    corrected = iter(holm([pair.p for run in matched for pair in run.metrics]))
    matched = [
        replace(run, metrics=tuple(replace(pair, p_corrected=next(corrected)) for pair in run.metrics))
        for run in matched
    ]
    taken = {record.id for one, other, _ in pairs for record in (one, other)}
    return RecordSets(
        matched=tuple(matched),
        only_a=tuple(record for id, record in a.items() if id not in taken),
        only_b=tuple(record for id, record in b.items() if id not in taken),
        origin=_fields([(_origin(run.a), _origin(run.b)) for run in matched]),
        config=_fields([(_flat(run.a.config), _flat(run.b.config)) for run in matched if run.by == "key"]),
        summaries=_summaries(matched),
        family=sum(pair.p is not None for run in matched for pair in run.metrics),
    )


def _by_key(a: Mapping[str, Record], b: Mapping[str, Record]) -> Iterator[tuple[Record, Record]]:
    left, right = ([each for id, each in own.items() if id not in other] for own, other in ((a, b), (b, a)))
    unique_a, unique_b = _unique(left), _unique(right)
    return ((record, unique_b[key]) for key, record in unique_a.items() if key in unique_b)


def _unique(records: Sequence[Record]) -> dict[Key, Record]:
    counts = Counter(record.key for record in records)
    return {record.key: record for record in records if counts[record.key] == 1}


def _matched(
    a: Record,
    b: Record,
    by: Literal["id", "key"],
    outcomes: tuple[OutcomeReader, OutcomeReader],
    patterns: Sequence[str],
) -> MatchedRun:
    if a.status != "ok" or b.status != "ok":
        return MatchedRun(a=a, b=b, by=by, state="not ok", metrics=())
    names = [name for name in a.metrics if name in b.metrics and any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    state: State = "other metrics"
    if dict(a.metrics) == dict(b.metrics):
        same = _same_predictions(a, b, outcomes)
        state = "equal metrics" if same is None else "identical" if same else "other predictions"
    return MatchedRun(a=a, b=b, by=by, state=state, metrics=tuple(_pair(name, a, b, outcomes) for name in names))


def _same_predictions(a: Record, b: Record, outcomes: tuple[OutcomeReader, OutcomeReader]) -> bool | None:
    try:
        return bool(outcomes[0].frame(a.id).equals(outcomes[1].frame(b.id)))
    except NoOutcomesError:
        return None


def _pair(metric: str, a: Record, b: Record, outcomes: tuple[OutcomeReader, OutcomeReader]) -> MetricPair:
    pair = MetricPair(metric=metric, a=a.metrics[metric], b=b.metrics[metric])
    readings = []
    for side, reader, record in (("A", outcomes[0], a), ("B", outcomes[1], b)):
        try:
            readings.append(reader.read(record, metric))
        except NoOutcomesError as error:
            return replace(pair, no_samples=f"{side}: {error}")
    try:
        swings = swings_of([(readings[1], readings[0])])
    except NoOutcomesError as error:
        return replace(pair, no_samples=str(error))
    return replace(
        pair,
        samples=swings.samples,
        a_alone=swings.second_alone,
        b_alone=swings.first_alone,
        p=swap_p([swings]),
    )


def _summaries(matched: Sequence[MatchedRun]) -> tuple[MetricSummary, ...]:
    pairs: dict[str, list[MetricPair]] = {}
    for run in matched:
        for pair in run.metrics:
            pairs.setdefault(pair.metric, []).append(pair)
    found = []
    for metric, own in pairs.items():
        differences = [pair.difference for pair in own]
        described = describe(differences)
        mean = described.mean or 0.0
        found.append(
            MetricSummary(
                metric=metric,
                runs=len(own),
                mean=0.0 if is_zero(mean, [pair.a for pair in own]) else mean,
                interval=described.interval,
                p=sign_flip_p(differences) if len(own) > 1 else None,
            )
        )
    return tuple(found)


def _origin(record: Record) -> dict[str, str]:
    source = record.provenance
    return {
        "commit": (source.commit or "none")[:10],
        "uncommitted changes": str(source.dirty),
        "device": source.device,
        "threads": str(source.threads),
        "processes": str(source.processes or 1),
        "precision": source.precision,
        "weights": source.weights_digest or "none",
        **{f"version of {name}": version for name, version in source.versions.items()},
        **{f"data {name}": digest for name, digest in source.data_digests.items()},
    }


def _flat(config: Any, path: str = "") -> dict[str, str]:
    if not isinstance(config, Mapping):
        return {path: str(config)}
    found: dict[str, str] = {}
    for name, value in config.items():
        found |= _flat(value, f"{path}.{name}" if path else str(name))
    return found


def _fields(pairs: Sequence[tuple[Mapping[str, str], Mapping[str, str]]]) -> tuple[OriginField, ...]:
    """The fields in which a pair differs, with the values of all pairs."""
    names = dict.fromkeys(name for pair in pairs for side in pair for name in side)
    found = []
    for name in names:
        values = [(a.get(name, "absent"), b.get(name, "absent")) for a, b in pairs]
        differing = sum(one != other for one, other in values)
        if differing:
            left, right = (Counter(value[side] for value in values) for side in (0, 1))
            found.append(OriginField(name=name, a=left, b=right, differing=differing))
    return tuple(found)
