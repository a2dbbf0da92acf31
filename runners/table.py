"""randlora table: print a table from the records at hand, beside the paper's numbers where it has them.

Nothing is run. Cells that are missing, failed or stale are shown as such and never averaged.

Examples:
  randlora table table=demo
  randlora table table=demo format=latex
  randlora table table=demo format=json | jq .coverage
  randlora table table=demo records=results/published/demo/records     the published records instead of this machine's
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from runners.formats import check_format
from runners.tables import FORMATS, plan_table, store_of

CONFIG = "table"


def main(config: DictConfig) -> int:
    """Print a table; return 0."""
    check_format(config.format, tuple(FORMATS))
    planned = plan_table(config.table)
    scan = store_of(config.records).scan()
    for problem in scan.problems:
        print(f"warning: {problem.path} cannot be used: {problem.reason}", file=sys.stderr)
    print(FORMATS[config.format](planned.roll_up(scan)), end="")
    return 0
