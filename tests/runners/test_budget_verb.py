"""randlora budget: the table of sizes, for people and for scripts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from lab import Outcome

from randlora.adapter import Site
from randlora.storage import saved_bytes
from runners.compose import CONF, compose
from runners.plan import check_run, skeleton_targets

Command = Callable[..., Outcome]
MATCH = ("budget=match_lora", "budget.reference.rank=4")
METHODS = ("full_ft", "lora", "nola", "randlora", "vera")
FEW = f"methods=[{','.join(METHODS)}]"
ASKED = 70_656  # of LoRA with rank 4 on the 24 sites of micro_clip
BASE = 5_990_785


def rows_of(command: Command, *arguments: str) -> dict[str, dict[str, Any]]:
    outcome = command("budget", *arguments, "format=json")
    assert outcome.code == 0, outcome.err
    return {row["method"]: row for row in json.loads(outcome.out)}


def test_the_verb_agrees_with_the_runs(command: Command) -> None:
    rows = rows_of(command, "rank=4", FEW)
    assert list(rows) == list(METHODS)
    for method in METHODS[1:]:
        run = check_run(compose("config", [f"method={method}", *MATCH]))
        row, solution = rows[method], run.solution
        assert row["parameters"] == solution.reached
        field = solution.method.size_field
        assert row["size"] == f"{field} {getattr(solution.method, str(field))}"
        assert row["error"] == pytest.approx(100 * (solution.reached / ASKED - 1))
        assert row["percent"] == pytest.approx(100 * solution.reached / (BASE + solution.reached))
        assert row["saved_bytes"] == saved_bytes(solution.method, skeleton_targets(run.backbone))
        assert (row["note"] is None) == solution.in_reach
    assert rows["vera"]["note"] == f"unreachable: at most {rows['vera']['parameters']:,}"
    assert rows["lora"]["error"] == 0
    assert (rows["full_ft"]["size"], rows["full_ft"]["percent"]) == (None, 100)
    assert rows["full_ft"]["note"] == "no size to set"


@pytest.mark.parametrize(
    ("asked", "column", "most"),
    [
        ("parameters=1e5", "parameters", 100_000),
        ("percent=1.5", "percent", 1.5),
        ("bytes=300kB", "saved_bytes", 300_000),
        ("bytes=300000", "saved_bytes", 300_000),
        ("bytes='200 KiB'", "saved_bytes", 204_800),
    ],
)
def test_every_target_is_kept_and_errors_are_against_it(command: Command, asked: str, column: str, most: float) -> None:
    rows = rows_of(command, asked, "methods=[lora,randlora,dora]")
    for row in rows.values():
        assert 0.65 * most < row[column] <= most
        assert row["error"] == pytest.approx(100 * (row[column] / most - 1))


def test_another_reference_than_the_usual_one(command: Command) -> None:
    outcome = command("budget", "match=vera", "rank=8", "methods=vera")
    assert "as vera of rank 8" in outcome.out
    rows = rows_of(command, "match=kradapter", "methods=[kradapter,lora]")
    assert rows["kradapter"]["error"] == 0
    assert rows["lora"]["parameters"] <= rows["kradapter"]["parameters"]


def test_a_method_the_budget_is_too_small_for_says_so(command: Command) -> None:
    row = rows_of(command, "parameters=5000", "methods=lora")["lora"]
    assert row.pop("note") == "unreachable: at least 17,664"
    assert row.pop("method") == "lora"
    assert set(row.values()) == {None}
    assert "unreachable: at least 17,664" in command("budget", "parameters=5000", "methods=lora").out


def test_every_method_file_is_in_the_table_unless_it_trains_nothing(command: Command) -> None:
    outcome = command("budget", "rank=4")
    table = outcome.out.partition("\n\n")[0].splitlines()
    assert {line.split()[0] for line in table[2:]} == {path.stem for path in (CONF / "method").glob("*.yaml")} - {
        "zero_shot",
        "linear_probe",
    }
    assert max(map(len, table)) <= 120


def test_a_method_that_does_not_fit_says_why_below_the_table(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(method: object, site: Site) -> None:
        raise ValueError(f"NoLA: site '{site.name}' is not to its taste")

    monkeypatch.setattr("randlora.methods.nola.NoLA.check_site", refuse)
    outcome = command("budget", "methods=[lora,nola]", "rank=4")
    assert outcome.code == 0
    table, reason, _ = outcome.out.split("\n\n")
    assert table.splitlines()[3].split(maxsplit=1) == ["nola", "does not fit, see below"]
    assert reason.startswith("nola: NoLA fits these 24 sites at no size: NoLA: site 'visual.")
    assert rows_of(command, "methods=nola", "rank=4")["nola"]["note"] in reason


def test_the_table_is_for_people(command: Command) -> None:
    lines = command("budget", "backbone=clip_vit_l14", "match=lora", "rank=32", FEW).out.splitlines()
    assert lines[0].split() == ["method", "size", "parameters", "error", "of", "model", "saved", "note"]
    found = {line.split()[0]: line for line in lines[2:7]}
    assert found["lora"].split() == ["lora", "rank", "32", "15,138,816", "0", "%", "3.42", "%", "57.8", "MiB"]
    assert "unreachable: at most" in found["vera"]
    assert lines[-1] == (
        "clip_vit_l14: 108 sites, 427,616,513 parameters; budget 15,138,816 parameters, as lora of rank 32"
    )
    assert max(map(len, lines)) <= 120


def test_scripts_read_the_same_numbers_in_every_format(command: Command) -> None:
    arguments = ("rank=4", FEW)
    rows = rows_of(command, *arguments)
    lines = list(csv.DictReader(io.StringIO(command("budget", *arguments, "format=csv").out)))
    assert [line["method"] for line in lines] == list(rows)
    for line, row in zip(lines, rows.values(), strict=True):
        assert {key: value or None for key, value in line.items()} == {
            key: None if value is None else str(value) for key, value in row.items()
        }


def test_a_language_model_has_its_budgets_too(command: Command) -> None:
    rows = rows_of(command, "backbone=llama3_8b", "percent=0.7", "methods=[lora,vera,randlora_llm]")
    assert rows["randlora_llm"]["size"] == "rank 30"
    assert rows["vera"]["note"] == "unreachable: at most 1,441,792"
    assert rows["lora"]["percent"] <= 0.7
