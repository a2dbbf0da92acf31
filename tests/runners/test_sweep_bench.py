"""`randlora sweep_bench`: its files, what it computes from records, and its mistakes. No time is asserted."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from configs import ROOT
from conftest import Command
from lab import Lab, write_table

import runners.overhead.ways
import runners.sweep_bench
from results.bench_record import Environment
from results.files import StoreError
from results.overhead_record import ALONE, Length, OverheadBenchmark, Reading, WayResult, read, write
from results.overhead_tables import CSV_HEADER, csv, markdown
from results.record import Timing
from results.store import RecordStore
from runners.cli import main
from runners.compose import ConfigError
from runners.overhead.carry_out import Request, carry_out
from runners.overhead.cells import Cells
from runners.overhead.ways import Measured, Scratch, ways

RECORDS = ROOT / "results" / "published" / "demo" / "records"
FAST = ("seeds=2", "methods=[lora]", "steps=[1]", "workers=1", "rounds=1", "records=9", "readings=1", "table=small")


def in_this_process(module: Sequence[str], *, shown: str) -> None:
    """Do what a fresh process would, without loading everything again."""
    name, *arguments = module
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if name == "runners.cli":
            assert main(arguments) == 0, shown
        else:
            asked, answer = map(Path, arguments)
            answer.write_text(json.dumps(carry_out(Request(**json.loads(asked.read_text())))))


@pytest.mark.usefixtures("quiet_hydra")
def test_a_benchmark_holds_every_number_and_leaves_nothing_else(
    experiments: Path,
    lab: Lab,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_table(experiments, "small")
    page = tmp_path / "PAGE.md"
    page.write_text("<!-- bench: mine -->\nold\n<!-- end of bench -->\n")
    monkeypatch.setattr(runners.sweep_bench, "PAGE", page)
    monkeypatch.setattr(runners.sweep_bench, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(runners.overhead.ways, "process", in_this_process)
    own = ("machine.", "dataset=", "recipe.max_steps=")
    fixed = f"fixed={[one for one in lab.overrides() if not one.startswith(own)]}"
    machine = [one for one in lab.machine if not one.startswith("machine.results")]
    to = tmp_path / "out"
    found = command(
        "sweep_bench",
        *FAST,
        fixed,
        *machine,
        f"records_of={RECORDS}",
        f"to={to}",
        "name=mine",
        "publish=true",
    )
    assert found.code == 0, found.err
    assert sorted(path.name for path in to.iterdir()) == ["mine.csv", "mine.json", "mine.md"]
    measured = read(tmp_path / "published" / "mine" / "mine.json")
    (length,) = measured.lengths
    assert [way.label for way in length.ways] == [
        ALONE,
        "one multirun",
        "inline launcher",
        "1 worker",
        "1 worker, backbone not kept",
    ]
    assert [way.runs for way in length.ways] == [1, 2, 2, 2, 2]
    assert all(len(way.seconds) == 1 and way.seconds[0] > 0 for way in length.ways)
    assert all(len(way.used_s) == len(way.inside_s) == way.runs for way in length.ways)
    assert all(number > 0 for way in length.ways for number in (*way.used_s, *way.inside_s, *way.outside_s))
    assert [len(way.outside_s) for way in length.ways] == [1, 0, 1, 1, 1]
    assert measured.records == 9
    assert measured.record_bytes > 9 * 1000
    assert [one.command for one in measured.readings] == ["randlora status", "randlora table table=small"]
    assert all(min(one.first_s + one.again_s) > 0 for one in measured.readings)
    assert markdown(measured) in found.out
    assert markdown(measured).strip() in page.read_text(encoding="utf-8")
    assert (to / "mine.csv").read_text(encoding="utf-8") == csv(measured)


def test_a_failing_command_says_what_it_printed_last(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ended with code 2: error: no table 'missing'"):
        runners.overhead.ways.verb("status", "table=missing", f"records={tmp_path}")


def test_several_workers_are_measured_against_as_many_processes_at_once(tmp_path: Path) -> None:
    cells = Cells(fixed=(), methods=("lora",), datasets=("pets3",), seeds=(1, 2))
    found = ways(cells, cells, workers=3, extra=[], scratch=Scratch(root=tmp_path))
    assert [way.label for way in found][:2] == [ALONE, f"{ALONE}, 3 at once"]
    assert found[-1].label == "3 workers"


def test_cells_are_a_product_and_a_multirun_the_same() -> None:
    cells = Cells(fixed=("recipe=clip",), methods=("a", "b"), datasets=("x",), seeds=(4, 5))
    assert len(cells) == len(cells.jobs()) == 4
    assert cells.jobs("one=1")[1] == ["recipe=clip", "dataset=x", "method=a", "seed=5", "one=1"]
    assert cells.multirun("one=1") == ["recipe=clip", "dataset=x", "method=a,b", "seed=4,5", "one=1"]


def test_a_worker_s_first_record_has_none_before() -> None:
    moments = {"worker 1": [("a", 10.0), ("b", 11.5)], "worker 2": [("c", 10.5)]}
    assert runners.overhead.ways.since_the_record_before(moments) == {"b": 1.5}


def test_what_a_run_costs_is_the_time_it_did_not_train_or_evaluate() -> None:
    record = next(iter(RecordStore(RECORDS).scan().records.values()))
    measured = Measured()
    timed = replace(record, timing=Timing(steps=1, train_s=2.0, eval_s=1.0, total_s=3.5))
    measured.add(timed, elapsed_s=3.75)
    measured.add(timed, elapsed_s=None)
    assert (measured.used_s, measured.inside_s, measured.outside_s) == ([3.0, 3.0], [0.5, 0.5], [0.75])
    with pytest.raises(ConfigError, match="failed: no disk"):
        measured.add(replace(record, status="failed", reason="no disk", metrics={}), elapsed_s=1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("rounds=0", "rounds=0: valid: a whole number of 1 or more"),
        ("seeds_alone=3", "seeds_alone=3: valid: at most seeds=2"),
        ("workers=0", "workers=0: valid: a whole number of 1 or more, null"),
        ("steps=[]", "steps=[]: valid: distinct whole numbers"),
        ("steps=[5,5]", "steps=[5, 5]: valid: distinct whole numbers"),
        ("steps=[0]", "steps=[0]: valid: distinct whole numbers"),
        ("steps=5", "steps=5: valid: distinct whole numbers"),
        ("methods=[]", "methods=[]: valid: distinct choices of conf/method"),
        ("datasets=pets3", "datasets=pets3: valid: distinct choices of conf/dataset"),
        ("methods=[nonsense]", "nonsense"),
        ("fixed=recipe", "fixed=recipe: valid: overrides, each in quotes"),
        ("fixed=['recipe.no_such=1']", "no_such"),
        ("records_of=no/such/folder", "records_of=no/such/folder: "),
        ("machine.results=elsewhere", "machine.results=elsewhere: the records of a benchmark are thrown away"),
        ("name=a/b", "name=a/b: valid: letters"),
        ("publish=maybe", "publish=maybe: valid: true or false"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(wrong: str, message: str, tmp_path: Path, command: Command) -> None:
    found = command("sweep_bench", *FAST, f"to={tmp_path}", wrong)
    assert found.code == 2
    (error,) = (line for line in found.err.splitlines() if line.startswith("error: "))
    assert message in error
    assert list(tmp_path.iterdir()) == []


def document(*made: WayResult) -> OverheadBenchmark:
    place = Environment(
        device="cpu: any",
        cores=2,
        threads=1,
        versions={"torch": "2"},
        commit=None,
        dirty=None,
        command="randlora sweep_bench",
        started_at="2026-01-01T00:00:00+00:00",
    )
    return OverheadBenchmark(
        name="hand",
        fixed=("recipe=clip",),
        methods=("lora",),
        datasets=("pets3",),
        seeds=4,
        seeds_alone=1,
        environment=place,
        load=0.25,
        lengths=(Length(steps=5, ways=made),),
        records=20000,
        record_bytes=2**27,
        readings=(Reading(command="randlora status", first_s=(21.0, 20.0, 28.0), again_s=(2.0, 1.0, 1.5)),),
    )


def way(
    label: str, *, runs: int, at_once: int = 1, seconds: Iterable[float], outside_s: tuple[float, ...] = ()
) -> WayResult:
    return WayResult(
        label=label,
        at_once=at_once,
        runs=runs,
        seconds=tuple(seconds),
        used_s=(1.0, 2.0),
        inside_s=(0.25, 0.75),
        outside_s=outside_s,
    )


SLOW = way(ALONE, runs=2, seconds=(20.0, 30.0), outside_s=(9.0,))
FAST_WAY = way("2 workers", runs=8, at_once=2, seconds=(16.0, 12.0), outside_s=(0.6, 0.5, 0.3))
UNTOLD = way("one multirun", runs=8, seconds=(32.0, 40.0))


def test_ratios_are_of_runs_and_taken_within_rounds() -> None:
    (length,) = document(SLOW, FAST_WAY, UNTOLD).lengths
    # 10 s and 15 s a run against 2 s and 1.5 s
    assert length.relative(FAST_WAY).median == pytest.approx((5 + 10) / 2)
    assert length.relative(SLOW).median == 1
    assert FAST_WAY.per_hour.median == pytest.approx((1800 + 2400) / 2)
    # two at a time take 1.5 s and 0.5 s, one alone 1.5 s and 9 s
    assert FAST_WAY.steady_per_hour == pytest.approx(3600)
    assert length.steady_relative(FAST_WAY) == pytest.approx(2 * 10.5 / 2)
    assert UNTOLD.steady_per_hour is length.steady_relative(UNTOLD) is None


def test_tables_say_what_was_measured_and_leave_out_what_was_not() -> None:
    text = markdown(document(SLOW, UNTOLD))
    assert "#### Runs of 5 steps" in text
    assert "#### Reading 20,000 records (128 MiB)" in text
    split = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    rows = {label: rest for label, *rest in split}
    own = ["1.50 s", "0.50 s (to 0.70)", "9.00 s (to 9.00)"]
    assert rows[ALONE][1:] == ["1.00 (1.00 to 1.00)", "343", "1.00", *own]
    assert rows["one multirun"][2:] == ["", "", *own[:2], ""]
    assert rows["`randlora status`"] == ["21.0 s", "1.5 s"]
    lines = csv(document(SLOW, UNTOLD)).splitlines()
    assert lines[0].split(",") == list(CSV_HEADER)
    assert [len(line.split(",")) for line in lines] == [len(CSV_HEADER)] * 5
    assert lines[2].startswith("5,one multirun,8,2,36.0,810.0,2.75,,,1.5,")
    assert lines[2].endswith(",,")


@pytest.mark.parametrize("name", ["overhead", "overhead_many"])
def test_the_published_tables_and_the_page_say_what_was_measured(name: str) -> None:
    folder = runners.sweep_bench.PUBLISHED / name
    published = read(folder / f"{name}.json")
    assert published.name == name
    assert markdown(published) == (folder / f"{name}.md").read_text(encoding="utf-8")
    assert csv(published) == (folder / f"{name}.csv").read_text(encoding="utf-8")
    assert markdown(published).strip() in runners.sweep_bench.PAGE.read_text(encoding="utf-8")


def test_of_one_round_there_is_one_number() -> None:
    text = markdown(document(way(ALONE, runs=2, seconds=(20.0,))))
    assert "Rounds: 1; medians." in text
    assert "| 360 |" in " ".join(text.split())


def test_a_document_reads_back_equal_and_another_one_is_refused(tmp_path: Path) -> None:
    path = write(document(SLOW), tmp_path / "hand.json")
    assert read(path) == document(SLOW)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(StoreError, match="measure it again with randlora sweep_bench"):
        read(path)
