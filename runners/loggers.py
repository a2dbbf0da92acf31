"""Where training curves go: JSON lines always, Weights & Biases where asked."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from randlora.checks import check_choice

CURVES = "metrics.jsonl"


class RunLog(ABC):
    """The log of one run."""

    @abstractmethod
    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log values after ``step`` completed steps."""

    @abstractmethod
    def finish(self, record: Mapping[str, Any]) -> None:
        """Close the log with the run's record."""


class NoLog(RunLog):
    """The log of a process that has none, since another process of its run logs."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Logger(ABC):
    """A kind of log."""

    @abstractmethod
    def open(self, *, id: str, folder: Path, config: Mapping[str, Any]) -> RunLog:
        """Return the log of a run that starts or continues."""


@dataclass(frozen=True, kw_only=True)
class JsonLines(Logger):
    """One JSON object per line in the run's folder."""

    def open(self, *, id: str, folder: Path, config: Mapping[str, Any]) -> RunLog:
        """Return a log that appends to the run's curves."""
        return JsonLinesLog(folder / CURVES)


class JsonLinesLog(RunLog):
    """See :class:`JsonLines`. A continued run replaces the lines after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.monotonic()
        self._first = True

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line."""
        if self._first:
            self._first = False
            self._forget_from(step)
        line = {"step": step, "elapsed_s": round(time.monotonic() - self.began, 3), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def finish(self, record: Mapping[str, Any]) -> None:
        """Do nothing: the record has a file of its own."""

    def _forget_from(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _step_of(line) < step]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Wandb(Logger):
    """Weights & Biases beside the JSON lines.

    Attributes:
        project: name of the project.
        entity: user or team; None is the account's default.
        mode: ``offline`` writes a folder to sync later, ``online`` uploads, ``auto`` uploads if this machine is
            logged in.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]

    def __post_init__(self) -> None:
        check_choice(self, "mode", ("auto", "online", "offline"))

    def open(self, *, id: str, folder: Path, config: Mapping[str, Any]) -> RunLog:
        """Return a log to both places; if wandb cannot start, to the JSON lines alone, with a warning."""
        return WandbLog(self, id=id, folder=folder, config=config)


class WandbLog(RunLog):
    """See :class:`Wandb`. No failure of wandb reaches the run."""

    def __init__(self, settings: Wandb, *, id: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.lines = JsonLinesLog(folder / CURVES)
        self.run: Any = None
        try:
            self.run = _start(settings, id=id, folder=folder, config=config)
        except Exception as error:
            self._give_up(error)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log to both places."""
        self.lines.step(step, values)
        if self.run is not None:
            try:
                self.run.log(dict(values), step=step)
            except Exception as error:
                self._give_up(error)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Put the record into the run's summary and close it."""
        if self.run is not None:
            try:
                self.run.summary.update({"record": dict(record), **record.get("metrics", {})})
                self.run.finish(exit_code=0 if record.get("status") == "ok" else 1)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        print(f"warning: wandb is out ({type(error).__name__}: {error}); going on with {CURVES} alone", file=sys.stderr)
        self.run = None


def _start(settings: Wandb, *, id: str, folder: Path, config: Mapping[str, Any]) -> Any:
    import wandb

    mode = settings.mode
    if mode == "auto":
        mode = "online" if wandb.api.api_key else "offline"
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        id=id,
        name=id,
        resume="allow" if mode == "online" else None,
        mode=mode,
        dir=folder,
        config=dict(config),
        settings=wandb.Settings(silent=True, init_timeout=30, console="off"),
    )


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize
