"""The verb forget: what it removes, what it keeps, and that it asks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from lab import Outcome, write_table
from made_records import changed, failed, made_records, write_newer

from results.claims import Claims
from results.record import Record
from results.store import RecordStore

Command = Callable[..., Outcome]
Made = Mapping[tuple[str, str], Record]


@pytest.fixture
def made(experiments: Path) -> Made:
    """Records of the table ``small``: LoRA and VeRA, seeds 1 and 2."""
    write_table(experiments, "small")
    return made_records("small")


@pytest.fixture
def old(made: Made) -> Record:
    return changed(made["VeRA", "2"], "method", alpha=7.0)


@pytest.fixture
def store(made: Made, old: Record, tmp_path: Path) -> RecordStore:
    """Two that are ok, one that failed, and one of before."""
    store = RecordStore(tmp_path / "records")
    store.write(made["LoRA", "1"])
    store.write(made["VeRA", "1"])
    store.write(failed(made["LoRA", "2"], None, "why"))
    store.write(old)
    (store.folder(made["LoRA", "1"].id) / "predictions.parquet").write_bytes(b"x" * 4096)
    return store


@pytest.fixture
def forget(command: Command, store: RecordStore) -> Command:
    return lambda *arguments: command("forget", f"records={store.root}", *arguments)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sit at a terminal and type something."""

    def type_in(text: str) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _: text)

    return type_in


def there(store: RecordStore) -> set[str]:
    """Return the ids of the runs that have a folder; nothing hidden may be left but caches and claims."""
    names = {path.name for path in store.root.iterdir()}
    assert {name for name in names if name.startswith(".")} <= {".claims", ".planned", ".index"}
    assert not list((store.root / ".claims").glob("*"))
    return {name for name in names if not name.startswith(".")}


def ids(*records: Record) -> set[str]:
    return {record.id for record in records}


def test_nothing_is_removed_without_being_asked(forget: Command, store: RecordStore) -> None:
    before = there(store)
    outcome = forget("table=small")
    assert outcome.code == 2
    assert outcome.out.startswith(f"3 runs to remove from {store.root}, ")
    assert "KiB:" in outcome.out
    assert "no terminal to ask on; yes=true removes them" in outcome.err
    assert there(store) == before


@pytest.mark.parametrize("text", ["", "y", "yes", "2", "4"])
def test_any_other_answer_removes_nothing(
    forget: Command, store: RecordStore, answer: Callable[[str], None], text: str
) -> None:
    before = there(store)
    answer(text)
    outcome = forget("table=small")
    assert outcome.code == 1
    assert "nothing is removed" in outcome.err
    assert there(store) == before


def test_the_number_of_runs_removes_them(
    forget: Command, store: RecordStore, old: Record, answer: Callable[[str], None]
) -> None:
    answer("3")
    outcome = forget("table=small")
    assert outcome.code == 0
    assert "3 removed, 0 kept" in outcome.err
    assert there(store) == ids(old)


@pytest.mark.parametrize(
    ("arguments", "removed"),
    [
        (["table=small", "state=failed"], [("LoRA", "2")]),
        (["table=small", "state=ok"], [("LoRA", "1"), ("VeRA", "1")]),
        (["table=small", "where={method: [VeRA]}"], [("VeRA", "1")]),
        (["key={method: lora rank, seed: 1}"], []),
        (['key={method: "lora rank=1"}'], [("LoRA", "1"), ("LoRA", "2")]),
        (['key={method: "lora rank=1", seed: 2}'], [("LoRA", "2")]),
        (["key={budget: unlimited}", "state=failed"], [("LoRA", "2")]),
    ],
)
def test_runs_are_chosen(
    forget: Command, store: RecordStore, made: Made, arguments: list[str], removed: list[tuple[str, str]]
) -> None:
    before = there(store)
    assert forget(*arguments, "yes=true").code == 0
    assert there(store) == before - ids(*(made[labels] for labels in removed))


def test_stale_removes_the_records_of_before(forget: Command, store: RecordStore, old: Record) -> None:
    before = there(store)
    assert forget("table=small", "where={method: [LoRA]}", "state=stale", "yes=true").code == 0
    assert there(store) == before
    assert forget("table=small", "state=stale", "yes=true").code == 0
    assert there(store) == before - ids(old)
    assert "nothing to remove" in forget("table=small", "state=stale", "yes=true").err


def test_ids_remove_whatever_is_there(forget: Command, store: RecordStore, made: Made) -> None:
    before, unfinished = there(store), store.folder("1234567890123456")
    unfinished.mkdir()
    (unfinished / "checkpoint.pt").write_bytes(b"x")
    assert forget(f"id=[{unfinished.name},{made['LoRA', '1'].id}]", "yes=true").code == 0
    assert there(store) == before - ids(made["LoRA", "1"])


def test_corrupt_and_unfinished_runs_of_a_table(forget: Command, store: RecordStore, made: Made) -> None:
    before = there(store)
    (store.folder(made["LoRA", "1"].id) / "record.json").write_text("{")
    store.folder(made["VeRA", "2"].id).mkdir()
    assert forget("table=small", "state=corrupt", "yes=true").code == 0
    assert there(store) == before - ids(made["LoRA", "1"]) | ids(made["VeRA", "2"])
    assert forget("table=small", "state=unfinished", "yes=true").code == 0
    assert there(store) == before - ids(made["LoRA", "1"])


def test_a_run_that_somebody_is_at_is_kept(forget: Command, store: RecordStore, made: Made, old: Record) -> None:
    claim = Claims(store.root).take(made["LoRA", "1"].id)
    assert claim is not None
    outcome = forget("table=small", "yes=true")
    assert outcome.code == 1
    assert f"kept: {made['LoRA', '1'].id}: somebody is at it" in outcome.err
    assert claim.is_held()
    claim.release()
    assert there(store) == ids(made["LoRA", "1"], old)


def test_a_run_that_was_carried_out_meanwhile_is_kept(
    forget: Command, store: RecordStore, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = made["LoRA", "2"]

    def carried_out(_: str) -> str:
        store.write(record)
        return "1"

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", carried_out)
    outcome = forget("table=small", "state=failed")
    assert outcome.code == 1
    assert "it has changed since it was listed" in outcome.err
    assert store.read(record.id) == record


def test_records_of_a_newer_version_are_kept(forget: Command, store: RecordStore, made: Made) -> None:
    path = write_newer(store, made["VeRA", "2"])
    for arguments in (["table=small", "where={seed: ['2']}", "state=ok"], [f"id={path.parent.name}"]):
        outcome = forget(*arguments, "yes=true")
        assert "nothing to remove" in outcome.err
    assert outcome.code == 1
    assert "update this checkout" in outcome.err
    assert path.is_file()


def test_what_an_interrupted_removal_left_is_cleared_up(forget: Command, store: RecordStore) -> None:
    left = store.root / ".forgotten-0123456789abcdef-00000000"
    left.mkdir()
    (left / "adapter.safetensors").write_bytes(b"x")
    assert len(store.scan().records) == 4
    assert forget("table=small", "state=failed", "yes=true").code == 0
    assert not left.exists()


def test_a_refusing_disk_leaves_the_run_whole(
    forget: Command, store: RecordStore, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        outcome = forget("table=small", "state=failed", "yes=true")
    assert outcome.code == 2
    assert "cannot remove" in outcome.err
    assert store.read(made["LoRA", "2"].id) is not None
    there(store)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of table=…, key={method: …}, id=…"),
        (["table=small", "id=0123456789abcdef"], "give one of"),
        (["table=small", "state=stael"], "valid with table=: ok, failed, skipped, stale, corrupt, unfinished"),
        (["key={seed: 1}", "state=stale"], "valid with key=: ok, failed, skipped"),
        (["id=0123456789abcdef", "state=ok"], "no state"),
        (["key={methods: lora}"], "valid: some of method, backbone, dataset"),
        (["key=lora"], "valid: some of method, backbone, dataset"),
        (["id=0123456789abcdef"], "holds nothing of this run"),
        (["id=../../etc"], "not a run id"),
        (["key={seed: 1}", "where={method: [LoRA]}"], "where= takes labels of a table"),
        (["table=smal"], "it has small"),
    ],
)
def test_what_cannot_be_meant(forget: Command, store: RecordStore, arguments: list[str], message: str) -> None:
    before = there(store)
    outcome = forget(*arguments, "yes=true")
    assert outcome.code == 2
    assert message in outcome.err
    assert there(store) == before
