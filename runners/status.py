"""randlora status: how many runs of every table are ok, missing, failed, running, stale or skipped.

Cells that are one run, such as the tasks of a language model, count once. Missing: there is no record. Stale: there is
none either, but one of the same name, made with a configuration that has changed since. Running: a sweep or a run has
claimed it, here or elsewhere.

Examples:
  randlora status
  randlora status table=demo format=json
  randlora status --failed table=demo      why each of its failed runs failed, the end of the log, how to run it again
  randlora status --stale                  what has changed since, field by field
  randlora status --running                who is at which run, since when, at which step
  randlora status records=results/published/demo/records
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from omegaconf import DictConfig

from results.claims import Claims, Holder
from results.store import RecordStore, Scan
from runners import status_text
from runners.compose import ConfigError
from runners.formats import FORMATS, UNTIL_RUN, check_format, newer_text, problems_text, rows_text
from runners.handout import submitted_text
from runners.identities import Identities
from runners.plan import Planner
from runners.scanning import scan_records
from runners.status_details import KINDS, Block, Details, TableRuns
from runners.tables import names, plan_table, store_of

CONFIG = "status"
FLAGS = {"--failed": "failed=true", "--stale": "stale=true", "--running": "running=true"}
STATES = ("ok", "missing", "failed", "running", "stale", "skipped")
TEXTS: Mapping[str, Callable[[Sequence[Block]], str]] = {
    "failed": status_text.failed_text,
    "stale": status_text.stale_text,
    "running": status_text.running_text,
}


def main(config: DictConfig) -> int:
    """Print the state of every table, or what is asked of single runs; return 0."""
    check_format(config.format, FORMATS)
    asked = [name for name in TEXTS if config[name]]
    if config.format == "csv" and asked:
        raise ConfigError(f"format=csv is for the counts; for {', '.join(asked)}: valid: text, json")
    store = store_of(config.records)
    scan, holders = scan_records(store), Claims(store.root).running()
    alive = {id for id, holder in holders.items() if not holder.is_gone}
    tables = _tables([config.table] if config.table else names(), store, scan, alive)
    rows = [_row(table) for table in tables]
    details = Details(tables=tables, scan=scan, store=store, results=config.records, only=bool(config.table))
    blocks = {name: _blocks(details, name, holders) for name in asked}
    if config.format == "json":
        print(json.dumps({"tables": rows, **blocks} if asked else rows, indent=1))
    elif asked:
        print("\n\n".join(TEXTS[name](found) for name, found in blocks.items()))
    else:
        print(rows_text(rows, config.format))
    if not asked and config.format == "text":
        for line in (*_hints(tables, rows), *submitted_text(store.root)):
            print(line)
    for line in (*problems_text(scan.problems, then=UNTIL_RUN), *newer_text(scan.newer)):
        print(line, file=sys.stderr)
    return 0


def _tables(chosen: Sequence[str], store: RecordStore, scan: Scan, alive: set[str]) -> list[TableRuns]:
    planner, identities = Planner(), Identities(store.root)
    planned = [plan_table(name, planner=planner, identities=identities) for name in chosen]
    identities.save()
    return [TableRuns(planned=table, runs=table.states(scan, running=alive)) for table in planned]


def _row(table: TableRuns) -> dict[str, str | int]:
    # a run that is ok and carried out once more stays ok until its new record
    found = Counter("running" if run.running and run.state != "ok" else run.state for run in table.runs.values())
    return {"table": table.name, "cells": len(table.runs), **{state: found[state] for state in STATES}}


def _blocks(details: Details, name: str, holders: Mapping[str, Holder]) -> list[Block]:
    if name == "running":
        return details.running(holders)
    return details.failed() if name == "failed" else details.stale()


def _hints(tables: Sequence[TableRuns], rows: Sequence[Mapping[str, str | int]]) -> list[str]:
    """Return one line per state that there is more to say about."""
    failed = {id: run.record for table in tables for id, run in table.runs.items() if run.state == "failed"}
    kinds = Counter(KINDS[one.failure.kind] if one and one.failure else "other" for one in failed.values())
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    lines = [f"{len(failed)} failed ({told}): randlora status --failed says why"] if failed else []
    return lines + [
        f"{state}: randlora status --{state} says {more}"
        for state, more in (("stale", "what has changed since"), ("running", "who is at it"))
        if any(row[state] for row in rows)
    ]
