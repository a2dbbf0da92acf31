"""randlora table: print a table from the records at hand, beside the paper's numbers where it has them.

Nothing is run. Cells that are missing, failed or stale are shown as such and never averaged. The table is also written,
as Markdown, LaTeX, CSV, JSON and a picture, to results/tables or where to= says; a part of a table as <table>_part.

Examples:
  randlora table table=demo
  randlora table table=clip_vit_b32 columns=average                      averages alone: one line per method
  randlora table table=clip_vit_b32 "where={data: [1 shot, 100%]}"       the cells of two data budgets
  randlora table table=clip_vit_b32 "where={method: [LoRA-32, RandLoRA-6], dataset: [Cars, DTD]}"
  randlora table table=demo spread=interval                              95 % intervals in place of standard deviations
  randlora table table=demo format=latex
  randlora table table=demo format=json | jq .coverage
  randlora table table=demo records=results/published/demo/records       the published records instead of this machine's
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from results import render
from results.sheet import SPREADS
from runners import tables
from runners.compose import ConfigError
from runners.formats import UNTIL_RUN, check_format, newer_text, problems_text
from runners.identities import Identities
from runners.scanning import scan_records

CONFIG = "table"
COLUMNS = ("all", "average")


def main(config: DictConfig) -> int:
    """Print a table and write it; return 0."""
    check_format(config.format, tuple(tables.FORMATS))
    if config.columns not in COLUMNS:
        raise ConfigError(f"columns={config.columns}: valid: {', '.join(COLUMNS)}")
    if config.spread not in SPREADS:
        raise ConfigError(f"spread={config.spread}: valid: {', '.join(SPREADS)}")
    where = tables.chosen_labels(config.where)
    store = tables.store_of(config.records)
    identities = Identities(store.root)
    planned = tables.plan_table(config.table, where=where, identities=identities)
    identities.save()
    if config.columns == "average" and not planned.spec.average:
        raise ConfigError(f"columns=average: table {config.table} has no average")
    scan = scan_records(store)
    for line in (*problems_text(scan.problems, then=UNTIL_RUN), *newer_text(scan.newer)):
        print(line, file=sys.stderr)
    table = planned.roll_up(scan)
    folder = tables.TABLES if config.to is None else Path(config.to).expanduser()
    name = f"{planned.spec.name}_part" if where else planned.spec.name
    written = render.write_all(table, folder, name, spread=config.spread)
    shown = table.averages_only() if config.columns == "average" else table
    print(tables.FORMATS[config.format](shown, spread=config.spread), end="")
    forms = ",".join(path.suffix.removeprefix(".") for path in written)
    if "png" not in forms:
        print("\nno picture yet: there is nothing complete to draw", file=sys.stderr)
    print(f"\nwritten: {written[0].with_suffix('')}.{{{forms}}}", file=sys.stderr)
    return 0
