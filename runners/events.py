"""What a worker tells of its work, in pieces that travel between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runners.progress import scores_of

if TYPE_CHECKING:
    from results.record import Record


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run begins."""

    run: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """So many steps of the training are done."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Judged:
    """So many questions are judged."""

    scorer: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run ended as a record; ``outcome`` is what it says in one line."""

    run: str
    ok: bool
    outcome: str

    @classmethod
    def of(cls, record: Record) -> Recorded:
        """Return what is told of a record."""
        ok = record.status == "ok"
        return cls(run=record.id, ok=ok, outcome=scores_of(record) if ok else f"{record.status}: {record.reason}")


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A run was recorded by another worker in the meantime."""

    run: str


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Every run that is left is in somebody else's hands."""

    left: int


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A run stopped before its end; the message says where."""

    run: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The worker cannot go on, for a reason that is not its run's: the disk."""

    message: str


Event = Started | Stepped | Judged | Recorded | Elsewhere | Waiting | Stopped | Broken
Report = Callable[[Event], None]
