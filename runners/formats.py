"""Numbers as people read them, and tables of plain rows in the format asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runners.compose import ConfigError

FORMATS = ("text", "json", "csv")


def parameters_text(count: int) -> str:
    """Return a parameter count: 812, 64.4 k, 6.0 M."""
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.1f} k" if count < 1e6 else f"{count / 1e6:.2f} M"


def memory_text(count: int) -> str:
    """Return bytes in MiB or GiB."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def seconds_text(seconds: float) -> str:
    """Return seconds, or milliseconds below one."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def failures_text(reasons: Mapping[str, str]) -> list[str]:
    """Return one line per distinct reason of failed runs, with how many share it and one id to look at."""
    ids: dict[str, list[str]] = {}
    for id, reason in reasons.items():
        ids.setdefault(reason, []).append(id)
    return [
        f"failed: {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {reason}"
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


def check_format(form: str, valid: Sequence[str]) -> None:
    """Raise ConfigError unless the format is valid."""
    if form not in valid:
        raise ConfigError(f"format={form}: valid: {', '.join(valid)}")
