"""Numbers as people read them, and tables of plain rows in the format asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.compose import ConfigError

if TYPE_CHECKING:
    from results.store import Problem

FORMATS = ("text", "json", "csv")
UNTIL_RUN = " (its cell counts as missing; running that keeps this file beside the new one)"


def failures_text(reasons: Mapping[str, str]) -> list[str]:
    """Return one line per distinct reason of failed runs, with how many share it and one id to look at."""
    ids: dict[str, list[str]] = {}
    for id, reason in reasons.items():
        ids.setdefault(reason, []).append(id)
    return [
        f"failed: {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {reason}"
        for reason, found in ids.items()
    ]


def problems_text(problems: Sequence[Problem], *, then: str = "") -> list[str]:
    """Return one warning per distinct reason of records that cannot be used, with how many share it and one of them."""
    paths: dict[str, list[Path]] = {}
    for problem in problems:
        reason = problem.reason.removeprefix(str(problem.path)).removeprefix(" is ")
        paths.setdefault(reason, []).append(problem.path)
    return [
        f"warning: {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''} cannot be used{then}: {reason}"
        for reason, found in paths.items()
    ]


def newer_text(newer: Mapping[str, str]) -> list[str]:
    """Return one warning per distinct reason of records of a newer version of the suite, which stay as they are."""
    ids: dict[str, list[str]] = {}
    for id, reason in newer.items():
        ids.setdefault(reason[reason.find("schema_version") :], []).append(id)
    return [
        f"warning: the record of {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''} is of a newer "
        f"version and left alone, its cell is not run here: {reason}"
        for reason, found in ids.items()
    ]


def rows_text(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """Return rows of equal keys as an aligned table, JSON or CSV.

    Raises:
        ConfigError: for another format.
    """
    check_format(form, FORMATS)
    if form == "json":
        return json.dumps(list(rows), indent=1)
    if form == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue().rstrip("\n")
    from tabulate import tabulate

    shown = [{key: f"{value:,}" if isinstance(value, int) else value for key, value in row.items()} for row in rows]
    return tabulate(shown, headers="keys", disable_numparse=True)


def size_text(count: int) -> str:
    """Return a number of bytes for people: 640 B, 12.5 KiB, 28 MiB, 29.9 GiB."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def check_format(form: str, valid: Sequence[str]) -> None:
    """Raise ConfigError unless the format is valid."""
    if form not in valid:
        raise ConfigError(f"format={form}: valid: {', '.join(valid)}")
