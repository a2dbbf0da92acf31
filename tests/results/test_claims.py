"""Claims: one owner per run, the dead told from the living without a common clock, nothing lost on a full disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import results.claims
from results.claims import Claim, Claims
from results.files import StoreError
from results.local_process import here, started

RUN = "0123456789abcdef"
OTHER = "fedcba9876543210"
STALE_AFTER_S = 30.0
CLAIM_AND_END = """
import sys
from pathlib import Path
from results.claims import Claims

Claims(Path(sys.argv[1])).take(sys.argv[2])
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A monotonic clock that goes on only when it is told to."""
    now = 1000.0
    monkeypatch.setattr(results.claims.time, "monotonic", lambda: now)

    def go_on(seconds: float) -> None:
        nonlocal now
        now += seconds

    return go_on


def claims(root: Path, worker: str = "") -> Claims:
    return Claims(root, stale_after_s=STALE_AFTER_S, worker=worker)


def take(root: Path, run: str = RUN) -> Claim:
    claim = claims(root).take(run)
    assert claim is not None
    return claim


def move_elsewhere(claim: Claim) -> Path:
    """Let a claim be that of a process on another computer."""
    path = claim.claims.path(claim.run, claim.generation)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"place": "elsewhere", "host": "far"}))
    return path


def leave_behind(root: Path, run: str = RUN) -> None:
    """Let a process claim a run and end."""
    subprocess.run([sys.executable, "-c", CLAIM_AND_END, str(root), run], check=True, cwd=Path(__file__).parents[2])


def test_a_run_has_one_owner_at_a_time(tmp_path: Path) -> None:
    claim = take(tmp_path)
    assert claims(tmp_path).take(RUN) is None
    assert claims(tmp_path).take(OTHER) is not None
    claim.release()
    again = take(tmp_path)
    assert (again.generation, again.deaths) == (1, 0)


def test_who_has_what_is_listed(tmp_path: Path) -> None:
    first = claims(tmp_path, worker="worker 1").take(RUN)
    assert first is not None
    (holder,) = claims(tmp_path).running().values()
    assert (holder.run, holder.worker, holder.pid, holder.token) == (RUN, "worker 1", os.getpid(), first.token)
    assert not claims(tmp_path).is_dead(holder)
    first.release()
    assert claims(tmp_path).running() == {}


@pytest.mark.skipif(here() is None, reason="only Linux tells computers and processes apart")
def test_a_run_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    leave_behind(tmp_path)
    claim = take(tmp_path)
    assert (claim.generation, claim.deaths) == (2, 1)
    assert claims(tmp_path).take(RUN) is None
    claim.release()
    assert list((tmp_path / ".claims").iterdir()) == []


@pytest.mark.skipif(here() is None, reason="only Linux tells computers and processes apart")
def test_a_process_with_the_number_of_a_dead_one_does_not_hold_its_run(tmp_path: Path) -> None:
    claim = take(tmp_path)
    path = claim.claims.path(RUN, 1)
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"pid": os.getppid(), "started": started(os.getppid())}))
    assert claims(tmp_path).take(RUN) is None
    path.write_text(json.dumps(said | {"pid": os.getppid(), "started": "1"}))
    assert claims(tmp_path).take(RUN) is not None


def test_a_run_of_another_computer_is_taken_over_when_nothing_is_heard_of_it(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    path = move_elsewhere(take(tmp_path))
    observer = claims(tmp_path)
    assert observer.take(RUN) is None
    clock(STALE_AFTER_S - 1)
    assert observer.take(RUN) is None
    os.utime(path)
    clock(2)
    assert observer.take(RUN) is None  # it was touched in between
    clock(STALE_AFTER_S + 1)
    taken = observer.take(RUN)
    assert taken is not None
    assert taken.deaths == 1


@pytest.mark.parametrize("away_s", [-10 * 365 * 86400, 10 * 365 * 86400])
def test_what_time_it_is_elsewhere_does_not_matter(
    tmp_path: Path, clock: Callable[[float], None], away_s: float
) -> None:
    path = move_elsewhere(take(tmp_path))
    observer = claims(tmp_path)
    then = path.stat().st_mtime + away_s
    os.utime(path, (then, then))
    assert observer.take(RUN) is None
    for _ in range(5):  # its clock goes backwards, and it is alive
        clock(STALE_AFTER_S - 1)
        then -= 3600
        os.utime(path, (then, then))
        assert observer.take(RUN) is None
    clock(STALE_AFTER_S + 1)
    assert observer.take(RUN) is not None


def test_an_owner_that_was_thought_dead_finds_out(tmp_path: Path, clock: Callable[[float], None]) -> None:
    asleep = take(tmp_path)
    move_elsewhere(asleep)
    observer = claims(tmp_path)
    assert observer.take(RUN) is None
    assert asleep.touch()
    clock(STALE_AFTER_S + 1)
    assert observer.take(RUN) is None  # the touch was seen only now
    clock(STALE_AFTER_S + 1)
    taken = observer.take(RUN)
    assert taken is not None
    assert not asleep.is_held()
    assert not asleep.touch()
    asleep.release()
    assert taken.is_held()
    taken.release()
    assert not asleep.is_held()
    later = take(tmp_path)
    assert later.generation == asleep.generation
    assert not asleep.is_held()  # the file has its name, and is not its own
    asleep.release()
    assert later.is_held()


@pytest.mark.skipif(here() is None, reason="only Linux tells computers and processes apart")
@pytest.mark.parametrize("dead", [False, True])
def test_of_many_at_once_one_gets_it(tmp_path: Path, dead: bool) -> None:
    if dead:
        leave_behind(tmp_path)
    count, rounds = 8, 20
    together = Barrier(count)

    def attempt(_: int) -> list[Claim]:
        own = []
        for number in range(rounds):
            together.wait()
            claim = claims(tmp_path).take(RUN if dead and not number else f"{number:016x}")
            own += [claim] if claim is not None else []
        return own

    with ThreadPoolExecutor(count) as pool:
        taken = [claim for own in pool.map(attempt, range(count)) for claim in own]
    assert len({claim.run for claim in taken}) == len(taken) == rounds
    assert all(claim.is_held() for claim in taken)


def test_a_claim_that_is_half_written_is_left_alone_for_a_while(tmp_path: Path, clock: Callable[[float], None]) -> None:
    claim = take(tmp_path)
    claim.claims.path(RUN, 1).write_text('{"token": "')
    observer = claims(tmp_path)
    assert observer.running()[RUN].token is None
    assert observer.take(RUN) is None
    clock(STALE_AFTER_S + 1)
    assert observer.take(RUN) is not None


def test_deaths_are_counted_until_they_are_buried(tmp_path: Path) -> None:
    if here() is None:
        pytest.skip("only Linux tells computers and processes apart")
    for _ in range(3):
        leave_behind(tmp_path)
    living = take(tmp_path, OTHER)
    (tmp_path / ".claims" / ".half").write_text("of a process that was killed while it claimed")
    claims(tmp_path).bury()
    assert sorted(path.name for path in (tmp_path / ".claims").iterdir()) == [f"{OTHER}.1.json"]
    assert living.is_held()
    assert take(tmp_path).deaths == 0


def test_a_folder_without_links_has_claims_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    claim = take(tmp_path)
    assert claim.is_held()
    assert claims(tmp_path).take(RUN) is None
    assert [path.name for path in (tmp_path / ".claims").iterdir()] == [f"{RUN}.1.json"]


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(trouble, os.strerror(trouble))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(StoreError, match=f"cannot claim a run in .*{os.strerror(trouble)}.*earlier results are intact"):
        claims(tmp_path).take(RUN)
    assert list((tmp_path / ".claims").iterdir()) == []


def test_an_answer_that_was_lost_does_not_lose_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared folder may make the link and say that it was there already."""
    link = Path.hardlink_to

    def twice(self: Path, target: Path) -> None:
        link(self, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(Path, "hardlink_to", twice)
    assert take(tmp_path).is_held()
