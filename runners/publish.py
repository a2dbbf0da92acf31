"""randlora publish: copy a table's records and its rendered forms to results/published, to be committed.

Published records are never taken for this machine's: sweeps and tables read them only where asked with records=.

Examples:
  randlora publish table=demo
  randlora table table=demo records=results/published/demo/records
"""

from __future__ import annotations

from omegaconf import DictConfig

from results import render
from runners.compose import ConfigError
from runners.machine import ROOT
from runners.tables import plan_table, store_of

CONFIG = "publish"
PUBLISHED = ROOT / "results" / "published"


def main(config: DictConfig) -> int:
    """Copy the records that are ok or failed, write the table beside them, and say where; return 0."""
    planned = plan_table(config.table)
    scan = store_of(config.records).scan()
    records = [scan.records[id] for id in planned.runs if id in scan.records]
    if not records:
        raise ConfigError(
            f"{config.records} holds no record of table {config.table}; run randlora sweep table={config.table}"
        )
    folder = PUBLISHED / planned.spec.name
    target = store_of(folder / "records")
    for record in records:
        target.write(record)
    written = render.write_all(planned.roll_up(target.scan()), folder, planned.spec.name)
    print(f"{len(records)} of {len(planned.runs)} records in {folder / 'records'}")
    print("\n".join(str(path) for path in written))
    return 0
