"""The blocks of `randlora status` as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.config_diff import ABSENT, shortened
from runners.status_details import KINDS

Block = Mapping[str, Any]


def failed_text(blocks: Sequence[Block]) -> str:
    """Return failed runs, one block each."""
    return "\n\n".join("\n".join(_failed(block)) for block in blocks) or "nothing has failed"


def stale_text(blocks: Sequence[Block]) -> str:
    """Return stale runs; those of a table for which the same has changed are one block."""
    groups: dict[tuple[str, tuple[str, ...]], list[Block]] = {}
    for block in blocks:
        groups.setdefault((block["table"], tuple(map(_change, block["changes"]))), []).append(block)
    return "\n\n".join("\n".join(_stale(*group, same)) for group, same in groups.items()) or "nothing is stale"


def running_text(blocks: Sequence[Block]) -> str:
    """Return runs under way, one block each."""
    return "\n\n".join("\n".join(_running(block)) for block in blocks) or "nothing is running"


def _failed(block: Block) -> list[str]:
    words = KINDS.get(block["kind"], "failed, before kinds of failures were recorded")
    at = "" if block["step"] is None else f" at step {block['step']}"
    of = "" if block["steps"] is None or not at else f" of {block['steps']}"
    lines = [
        _title(block, key=block["key"]),
        f"  run     {block['run']}",
        f"  why     {words}{at}{of}",
        f"  reason  {block['reason']}",
        f"  log     {block['log'] or 'none was kept'}",
        *(f"          | {line}" for line in block["tail"]),
    ]
    return [*lines, f"  again   {block['again']}" if block["again"] else "  again   no table asks for it any more"]


def _stale(table: str, changes: Sequence[str], blocks: Sequence[Block]) -> list[str]:
    first = blocks[0]
    count = f"{len(blocks)} runs, such as {_labels(first)}" if len(blocks) > 1 else _labels(first)
    older = f" ({first['older']} older)" if first["older"] else ""
    return [
        f"table {table}: {count}",
        f"  run     {first['run']}; its record of before is {first['old']}, of {first['started_at']}{older}",
        *(f"  {line}" for line in changes or ["no field: the same config has another id"]),
        f"  again   {first['again']}",
        f"  remove  {first['remove']}",
    ]


def _running(block: Block) -> list[str]:
    died = f"; {block['deaths']} died at it before" if block["deaths"] else ""
    where = f"{block['host']}, process {block['pid']}" + (f" ({block['worker']})" if block["worker"] else "")
    step = "no step yet" if block["step"] is None else f"step {block['step']}"
    state = "its process is gone; the next sweep takes it over" if block["gone"] else f"{step}{died}"
    return [
        _title(block),
        f"  run     {block['run']}",
        f"  where   {where if block['host'] else 'its claim cannot be read'}",
        f"  since   {block['since'] or 'unknown'}",
        f"  state   {state}",
    ]


def _title(block: Block, *, key: Mapping[str, Any] | None = None) -> str:
    places = block["places"]
    if places:
        others = sorted({place["table"] for place in places[1:]})
        also = f" (also in {', '.join(others)})" if others else ""
        return f"table {places[0]['table']}: {_labels(places[0])}{also}"
    named = "" if key is None else ": " + ", ".join(f"{part} {value}" for part, value in key.items())
    return f"in no table{named}"


def _labels(place: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} {label}" for axis, label in place["labels"].items())


def _change(change: Block) -> str:
    old, new = (shortened(change[side]) if side in change else ABSENT for side in ("old", "new"))
    return f"{change['field']}: {old} -> {new}"
