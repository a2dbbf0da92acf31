from __future__ import annotations

import dataclasses
import json
import math
from collections import OrderedDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from record_factory import make_config, make_record

from results.record import (
    SCHEMA_VERSION,
    PhaseMemory,
    Record,
    RecordError,
    Timing,
    canonical,
    run_id,
    run_id_of_parts,
)


def test_the_id_depends_on_values_not_on_order_or_spelling() -> None:
    assert run_id({"a": 1e-3, "b": (1, 2)}) == run_id(OrderedDict(b=[1, 2], a=0.001))
    assert run_id({"a": {"b": 1}}) == run_id(MappingProxyType({"a": MappingProxyType({"b": 1})}))
    different: list[dict[str, Any]] = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, {}]
    assert len({run_id(each) for each in different}) == len(different)


def test_the_id_is_stable_and_holds_the_rules() -> None:
    # Published records carry ids: a change of this value orphans them all.
    assert run_id({"method": {"rank": 4}, "rate": 1e-3}, rules_version=1) == "9c0d6393f494d99d"
    assert run_id({"a": 1}, rules_version=1) != run_id({"a": 1}, rules_version=2)


@pytest.mark.parametrize("value", [math.nan, math.inf, Path("x"), {1: "x"}, {"s": {1, 2}}])
def test_a_config_that_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(RecordError, match=r"config\.key"):
        run_id({"key": value})


def test_a_record_reads_back_equal() -> None:
    for record in (
        make_record(notes=("one", "two")),
        make_record(device="cuda"),
        make_record(status="failed", reason="out of memory"),
        dataclasses.replace(make_record(), parameters=None, memory=None, timing=None),
    ):
        assert Record.from_json(record.to_json()) == record


def test_a_record_keeps_its_own_copy_of_the_config() -> None:
    config = make_config()
    record = dataclasses.replace(make_record(), config=config, id=run_id(config))
    config["method"]["rank"] = 99
    assert record.config["method"]["rank"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "failed"}, "says why"),
        ({"status": "skipped", "reason": ""}, "says why"),
        ({"metrics": {}}, "at least one metric"),
        ({"metrics": {"test/top1": math.nan}}, r"metrics\.test/top1.*not a finite"),
        ({"metrics": {"test/top1": math.inf}}, "not a finite"),
        ({"metrics": {"test/top1": "0.8"}}, "not a finite"),
        ({"id": "0" * 16}, "not the id of this config"),
        ({"rules_version": 2}, "not the id of this config"),
        ({"status": "good"}, "none of ok"),
        ({"schema_version": SCHEMA_VERSION + 1}, "update this checkout"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        dataclasses.replace(make_record(), **changes)


def test_amounts_are_finite_and_not_negative() -> None:
    with pytest.raises(RecordError, match="step_median_s"):
        Timing(steps=3, step_median_s=math.nan)
    with pytest.raises(RecordError, match="process_peak_bytes"):
        PhaseMemory(process_peak_bytes=-1)


def test_a_record_from_before_there_could_be_several_processes_reads() -> None:
    data = json.loads(make_record().to_json())
    del data["provenance"]["processes"]
    assert Record.from_json(json.dumps(data)).provenance.processes is None


def _edited(change: Any) -> str:
    data = json.loads(make_record().to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("checks"), "record: missing checks"),
        (lambda data: data["timing"].pop("eval_s"), r"record\.timing: missing eval_s"),
        (lambda data: data["key"].update(colour="red"), r"record\.key: unknown colour; known are method"),
        (lambda data: data["timing"].update(steps=1.5), r"record\.timing\.steps: expected an integer, got 1\.5"),
        (lambda data: data["timing"].update(steps=True), "expected an integer"),
        (lambda data: data["metrics"].update(a="0.5"), r"record\.metrics\.a: expected a number"),
        (lambda data: data["metrics"].update(a=True), "expected a number"),
        (lambda data: data.update(status="fine"), "record.status: expected one of 'ok'"),
        (lambda data: data.update(notes="x"), "record.notes: expected a list"),
        (lambda data: data.update(notes=[1]), r"record\.notes\[0\]: expected a string"),
        (lambda data: data.update(memory=[]), "record.memory: expected an object"),
        (lambda data: data["config"].update(seed=9), "not the id of this config"),
        (lambda data: data.update(schema_version=2, novelty=1), "schema_version: 2, but .* update this checkout"),
        (lambda data: data["metrics"].update(a=math.nan), "holds NaN"),
    ],
)
def test_a_changed_text_is_refused_with_the_place(change: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Record.from_json(_edited(change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '{"schema_version": 1}'])
def test_text_that_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(RecordError):
        Record.from_json(text)


def test_an_id_of_parts_is_that_of_the_whole() -> None:
    config = {"seed": 1, "recipe": {"rate": 1e-3, "betas": (0.9, 0.999)}, "dataset": {"classes": ["é", '"'], "n": None}}
    texts = {key: canonical(value) for key, value in config.items()}
    assert run_id_of_parts(texts) == run_id(config)
    assert run_id_of_parts(texts, rules_version=7) == run_id(config, rules_version=7) != run_id(config)
    with pytest.raises(RecordError):
        canonical({"rate": float("nan")})
