"""randlora status: one line per table: how many cells are ok, missing, failed, skipped or stale.

Cells that are one run, such as the tasks of a language model, count once.

Stale: there is a record under the same name whose configuration has changed since.

Examples:
  randlora status
  randlora status table=demo format=json
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from results.store import Scan
from runners.formats import FORMATS, check_format, failures_text, problems_text, rows_text
from runners.plan import Planner
from runners.tables import names, plan_table, store_of

CONFIG = "status"
STATES = ("ok", "missing", "failed", "skipped", "stale")


def main(config: DictConfig) -> int:
    """Print the state of every table; return 0."""
    check_format(config.format, FORMATS)
    scan = store_of(config.records).scan()
    rows, planner = [], Planner()
    for name in [config.table] if config.table else names():
        table = plan_table(name, planner=planner).roll_up(scan)
        counts = {state: sum(n for kind, n in table.counts.items() if kind == state) for state in STATES}
        rows.append({"table": name, "cells": sum(counts.values()), **counts})
    print(rows_text(rows, config.format))
    if config.format == "text":
        print("\n".join(failures_text(_failures(scan))))
    for line in problems_text(scan.problems):
        print(line, file=sys.stderr)
    return 0


def _failures(scan: Scan) -> dict[str, str]:
    return {record.id: record.reason or "" for record in scan.records.values() if record.status == "failed"}
