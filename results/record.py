"""The record of one run: what was asked, what came out, what it cost and where it came from.

Every run ends as one record, a failed or skipped one too, with its reason. A number that does not exist is absent
(None, or no such metric), never NaN, 0 or another stand-in. Sizes are in bytes and times in seconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from results.codec import ADDED_LATER, CodecError, decode, plain
from results.verified import VerifiedConfig

SCHEMA_VERSION = 1
RULES_VERSION = 1
"""Version of docs/RULES.md. It is part of every run id, so results under other rules never mix."""

Status = Literal["ok", "failed", "skipped"]
FailureKind = Literal["out_of_memory", "diverged", "timed_out", "data", "weights", "contract", "worker_died", "error"]


class RecordError(ValueError):
    """A record, or the text of one, is not valid; the message says what is wrong and where."""


class NewerRecordError(RecordError):
    """A record was written by a newer version of the suite: it is no fault, and this version cannot read it."""


def run_id(config: Mapping[str, Any], *, rules_version: int = RULES_VERSION) -> str:
    """Return the identity of a run: 16 hexadecimal digits of the SHA-256 of its scientific config and the rules.

    The order of keys and the spelling of a float (`1e-3`, `0.001`) do not matter; `1` and `1.0` are different.
    Raises RecordError where the config holds something JSON cannot.
    """
    return _digest(_plain(config, where="config"), rules_version)


def canonical(part: Any) -> str:
    """Return a part of a config as the text that run ids are made of; RecordError for what JSON cannot hold."""
    return _canonical(_plain(part, where="config"))


def run_id_of_parts(parts: Mapping[str, str], *, rules_version: int = RULES_VERSION) -> str:
    """Return the id that `run_id` gives the config whose top-level keys have these `canonical` texts.

    Thousands of runs of a table share their parts, and turning a part into text takes most of the time of an id.
    """
    inside = ",".join(f"{_canonical(key)}:{parts[key]}" for key in sorted(parts))
    return _hash(f'{{"config":{{{inside}}},"rules":{rules_version}}}')


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a reader would call the run: each part is a config choice with its explicit overrides ("lora rank=16").

    Two records with equal keys and different ids answer the same question under another config: the older is stale.
    """

    method: str
    backbone: str
    dataset: str
    recipe: str
    budget: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters; `saved_bytes` is the size of the saved adapter and head."""

    adapter: int
    head: int
    frozen: int
    predicted: int | None = None
    budget_asked: int | None = None
    budget_reached: int | None = None
    budget_note: str | None = None
    saved_bytes: int | None = None

    def __post_init__(self) -> None:
        _require_amounts(self)


@dataclass(frozen=True, kw_only=True)
class PhaseMemory:
    """Peak memory of one phase: allocated and reserved on an accelerator, the whole process on a CPU."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_peak_bytes: int | None = None

    def __post_init__(self) -> None:
        _require_amounts(self)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory by phase on `device` ("cpu", "cuda"); a phase that did not happen is None."""

    device: str
    load: PhaseMemory | None = None
    train: PhaseMemory | None = None
    evaluation: PhaseMemory | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds by phase; `step_*_s` are over the optimiser steps after the warm-up steps and exclude `data_wait_s`."""

    steps: int
    step_median_s: float | None = None
    step_p10_s: float | None = None
    step_p90_s: float | None = None
    data_wait_s: float | None = None
    warmup_s: float | None = None
    load_s: float | None = None
    train_s: float | None = None
    eval_s: float | None = None
    total_s: float | None = None

    def __post_init__(self) -> None:
        _require_amounts(self)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the numbers come from; `started_at` is ISO 8601 in UTC, `dirty` is None outside a git checkout.

    `processes` trained together; None in records from before there could be several.
    """

    commit: str | None = None
    dirty: bool | None = None
    versions: Mapping[str, str]
    device: str
    threads: int
    precision: str
    data_digests: Mapping[str, str]
    weights_digest: str | None = None
    command: str
    started_at: str
    processes: int | None = field(default=None, metadata={ADDED_LATER: True})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run failed: the kind of trouble, and the optimiser step it was at, from 1, where it had got that far.

    ``data`` and ``weights``: missing or malformed; ``contract``: the audit of the method found it broken on this model;
    ``error``: anything else.
    """

    kind: FailureKind
    step: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        _require_amounts(self)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run. Raises RecordError where status, reason, metrics, config and id do not fit each other."""

    schema_version: int = SCHEMA_VERSION
    rules_version: int = RULES_VERSION
    id: str
    key: Key
    config: Mapping[str, Any]
    status: Status
    reason: str | None = None
    failure: Failure | None = field(default=None, metadata={ADDED_LATER: True})
    metrics: Mapping[str, float] = field(default_factory=dict)
    checks: Mapping[str, bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parameters: Parameters | None = None
    memory: Memory | None = None
    timing: Timing | None = None
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise _other_schema(self.schema_version)
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise RecordError(f"metrics.{name}: {value!r} is not a finite number; leave the metric out")
        if self.status not in ("ok", "failed", "skipped"):
            raise RecordError(f"status: {self.status!r} is none of ok, failed, skipped")
        if self.status == "ok" and not self.metrics:
            raise RecordError("metrics: a run that is ok has at least one metric")
        if self.status != "ok" and not self.reason:
            raise RecordError(f"reason: a {self.status} run says why")
        if self.failure is not None and self.status != "failed":
            raise RecordError(f"failure: a run that is {self.status} has none")
        if isinstance(self.config, VerifiedConfig) and self.config.id == self.id:
            return
        config = _plain(self.config, where="config")
        expected = _digest(config, self.rules_version)
        if self.id != expected:
            raise RecordError(f"id: {self.id!r} is not the id of this config, {expected!r}; one of them was changed")
        # A private copy: whoever built the record may go on changing its own config.
        object.__setattr__(self, "config", config)

    def to_json(self) -> str:
        """Return the record as indented JSON that `from_json` reads back equal; RecordError if it could not."""
        return json.dumps(_plain(self, where="record"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a record; RecordError for broken JSON, unknown or missing fields or wrong types.

        Raises NewerRecordError for the record of a newer version of the suite.
        """
        return cls.from_parsed(parse(text))

    @classmethod
    def from_parsed(cls, data: Any) -> Record:
        """Return the record of what :func:`parse` returned; errors as of :meth:`from_json`."""
        try:
            # Before the fields: another schema has other fields, and saying which would only mislead.
            if isinstance(data, dict) and data.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
                raise _other_schema(data["schema_version"])
            return decode(cls, data, where="record")
        except CodecError as error:
            raise RecordError(str(error)) from error


def parse(text: str) -> Any:
    """Return JSON as plain data; RecordError for broken JSON and for numbers that are not finite."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error


def _plain(value: Any, *, where: str) -> Any:
    try:
        return plain(value, where=where)
    except CodecError as error:
        raise RecordError(str(error)) from error


def _digest(config: Any, rules_version: int) -> str:
    return _hash(_canonical({"rules": rules_version, "config": config}))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_amounts(group: Any) -> None:
    for each in dataclasses.fields(group):
        value = getattr(group, each.name)
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            raise RecordError(f"{type(group).__name__}.{each.name}: {value} is not a finite amount; None if unknown")


def _other_schema(version: object) -> RecordError:
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    hint = "update this checkout" if newer else "run it again"
    text = f"schema_version: {version!r}, but this checkout reads version {SCHEMA_VERSION}; {hint}"
    return NewerRecordError(text) if newer else RecordError(text)


def _refuse_constant(name: str) -> NoReturn:
    raise RecordError(f"record: holds {name}, which is not a number")
