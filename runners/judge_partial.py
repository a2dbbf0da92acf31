"""What has been judged so far: one file that grows by a line per question, so that a stopped evaluation goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NAME = "answers.partial.jsonl"


class PartialAnswers:
    """The finished questions of one run and protocol.

    Lines of another run, and a last line that was torn, are left out.

    Args:
        folder: where the file is.
        run: identity of the run with everything that decides an answer.
    """

    def __init__(self, folder: Path, *, run: str) -> None:
        self.path = folder / NAME
        self.run = run

    def read(self) -> tuple[dict[str, dict[int, dict[str, Any]]], list[str]]:
        """Return what is done by scorer and question, and the notes made on the way."""
        done: dict[str, dict[int, dict[str, Any]]] = {}
        notes: list[str] = []
        for line in self._lines():
            if line.get("run") != self.run:
                continue
            if "note" in line:
                notes.append(line["note"])
            else:
                done.setdefault(line["scorer"], {})[line["question"]] = line["found"]
        return done, list(dict.fromkeys(notes))

    def add(self, scorer: str, found: Mapping[int, Mapping[str, Any]]) -> None:
        """Append finished questions."""
        self._append({"scorer": scorer, "question": index, "found": dict(one)} for index, one in found.items())

    def note(self, text: str) -> None:
        """Append a note."""
        self._append([{"note": text}])

    def clear(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps({"run": self.run, **line}, ensure_ascii=False) + "\n" for line in lines)
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends_whole():
                file.write(b"\n")  # ends the line that a killed process tore
            file.write(text.encode("utf-8"))

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"

    def _lines(self) -> Iterable[dict[str, Any]]:
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().split(b"\n"):
            try:
                found = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue
            if isinstance(found, dict):
                yield found
