"""Claims: which process works on which run, told by files in the results folder alone.

A claim is the file ``root/.claims/<run id>.<generation>.json``; whoever created the highest generation has the run. Its
owner touches it every few seconds. An owner is dead when its process on this very computer is gone, or when the file
has not been touched for a while *of the observer's own clock*: times of different computers are never compared, and a
clock that is set changes nothing. A dead claim is taken over by creating the next generation, which only one can do; an
owner that finds a higher one, or no longer its own file, has lost the run.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from results.files import StoreError
from results.local_process import here, is_gone, started

FOLDER = ".claims"
STALE_AFTER_S = 90.0
_NAME = re.compile(r"([0-9a-f]{16})\.([0-9]+)\.json")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has a run: ``generation`` - 1 owners before it died while they had it.

    ``host``, ``worker`` and ``since`` are for people. What cannot be read is None.
    """

    run: str
    generation: int
    token: str | None = None
    host: str | None = None
    place: str | None = None
    pid: int | None = None
    started: str | None = None
    worker: str | None = None
    since: str | None = None

    @property
    def is_gone(self) -> bool:
        """Whether its process was on this computer and no longer is."""
        return is_gone(place=self.place, pid=self.pid, began=self.started)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A run that this process has: ``deaths`` owners died while they had it."""

    claims: Claims
    run: str
    generation: int
    token: str

    @property
    def deaths(self) -> int:
        """How many owners died while they had the run."""
        return self.generation - 1

    def touch(self) -> bool:
        """Show that the owner is alive; return whether the run is still its own."""
        if not self.is_held():
            return False
        with contextlib.suppress(OSError):  # a disk that does not answer now may do so the next time
            os.utime(self.claims.path(self.run, self.generation))
        return True

    def is_held(self) -> bool:
        """Return whether nobody has taken the run over, in the belief that its owner was dead."""
        if self.claims.path(self.run, self.generation + 1).exists():
            return False
        return self.claims.read(self.run, self.generation).token == self.token

    def release(self) -> None:
        """Give the run back; what others have taken over stays theirs."""
        if self.is_held():
            self.claims.remove(self.run, up_to=self.generation)


class Claims:
    """The claims below ``root``, as one process sees and makes them.

    Args:
        root: the results folder; it need not exist yet.
        stale_after_s: a claim of another computer that is not touched for so long is dead.
        worker: what people call this process.
    """

    def __init__(self, root: Path, *, stale_after_s: float = STALE_AFTER_S, worker: str = "") -> None:
        self.folder = root / FOLDER
        self.stale_after_s = stale_after_s
        self.worker = worker
        self._seen: dict[Path, tuple[int, float]] = {}

    def take(self, run: str) -> Claim | None:
        """Return a claim on a run, or None where somebody living has it; StoreError where the disk refuses."""
        names = self._generations(run)
        if names and not self.is_dead(self.read(run, names[-1])):
            return None
        claim = Claim(claims=self, run=run, generation=names[-1] + 1 if names else 1, token=secrets.token_hex(8))
        return claim if self._create(claim) else None

    def running(self) -> dict[str, Holder]:
        """Return who has which run, by run id; the dead are among them until they are found out."""
        latest: dict[str, int] = {}
        for run, generation in self._listed():
            latest[run] = max(generation, latest.get(run, 0))
        return {run: self.read(run, generation) for run, generation in sorted(latest.items())}

    def is_dead(self, holder: Holder) -> bool:
        """Return whether an owner is known to be dead; of one elsewhere that takes several looks."""
        if holder.is_gone:
            return True
        path = self.path(holder.run, holder.generation)
        try:
            touched = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False  # it has just been given back: the next look finds none
        before, since = self._seen.get(path, (None, 0.0))
        if before != touched:
            self._seen[path] = (touched, time.monotonic())
            return False
        return time.monotonic() - since > self.stale_after_s

    def bury(self) -> None:
        """Remove the claims of processes that are gone from this computer: their deaths no longer count."""
        for run, holder in self.running().items():
            if holder.is_gone:
                self.remove(run, up_to=holder.generation)
        if self.folder.is_dir():
            for part in self.folder.glob(".*"):
                part.unlink(missing_ok=True)

    def remove(self, run: str, *, up_to: int) -> None:
        """Remove claims on a run, the oldest first: what is left always holds the highest generation."""
        for generation in self._generations(run):
            if generation <= up_to:
                self.path(run, generation).unlink(missing_ok=True)

    def read(self, run: str, generation: int) -> Holder:
        """Return what a claim says; of one that is half written or gone, nothing."""
        known = {each.name for each in fields(Holder)} - {"run", "generation"}
        try:
            said = json.loads(self.path(run, generation).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            said = None
        if not isinstance(said, dict):
            said = {}
        return Holder(run=run, generation=generation, **{name: said[name] for name in known & said.keys()})

    def path(self, run: str, generation: int) -> Path:
        """Return the file of a claim."""
        return self.folder / f"{run}.{generation}.json"

    def _create(self, claim: Claim) -> bool:
        path = self.path(claim.run, claim.generation)
        part = self.folder / f".{path.name}.{claim.token}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(self._text(claim), encoding="utf-8")
            self._link(part, path)
        except FileExistsError:
            # a shared folder may have carried it out, lost the answer, and asked again
            return self.read(claim.run, claim.generation).token == claim.token
        except FileNotFoundError:
            return False  # another process has cleared the folder up
        except OSError as error:
            raise StoreError(
                f"cannot claim a run in {self.folder}: {error.strerror or error}; free some space, make the folder "
                "writable or choose another one, earlier results are intact"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return True

    def _link(self, part: Path, path: Path) -> None:
        """Let the claim appear whole; where there are no links, at least once."""
        try:
            path.hardlink_to(part)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with path.open("x", encoding="utf-8") as file:
                file.write(part.read_text(encoding="utf-8"))

    def _text(self, claim: Claim) -> str:
        said = {
            "token": claim.token,
            "host": platform.node(),
            "place": here(),
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "worker": self.worker,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return json.dumps(said, indent=1) + "\n"

    def _generations(self, run: str) -> list[int]:
        return sorted(generation for other, generation in self._listed() if other == run)

    def _listed(self) -> Iterator[tuple[str, int]]:
        try:
            paths = list(self.folder.iterdir())
        except FileNotFoundError:
            return
        for path in paths:
            if found := _NAME.fullmatch(path.name):
                yield found[1], int(found[2])
