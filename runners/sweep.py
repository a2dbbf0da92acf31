"""randlora sweep: run every missing cell of a table, then print the table.

Cells that are recorded are not run again, so the same command continues an interrupted sweep and, when everything is
there, only prints the table. A cell that fails leaves a record with its reason and does not stop the others; the exit
code says so.

Examples:
  randlora sweep table=demo
  randlora sweep table=demo machine.device=cpu machine.keep_weights=false
  randlora sweep table=demo launcher.retry_failed=false        leave failed cells as they are
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results import render
from results.rollup import Table
from runners.compose import instantiate
from runners.formats import failures_text
from runners.tables import TABLES, PlannedTable, plan_table, store_of

if TYPE_CHECKING:
    from results.record import Record
    from runners.plan import Run

CONFIG = "sweep"
FORWARDED = ("machine", "logger")


def main(config: DictConfig) -> int:
    """Run a table; return 0 if no cell failed, 1 if one did, 130 if the sweep was interrupted."""
    from runners.execute import Bench, execute
    from runners.interrupt import stop_on_signals
    from runners.plan import check_run
    from runners.progress import sweep_progress

    overrides = [str(override) for override in config.hydra.overrides.task]
    forwarded = [one for one in overrides if one.partition("=")[0].partition(".")[0] in FORWARDED]
    table = plan_table(config.table, forwarded=forwarded)
    objects = instantiate(config)
    launcher, machine = objects["launcher"], objects["machine"]
    store = store_of(machine.results)
    scan = store.scan()
    for problem in scan.problems:
        print(f"warning: {problem.path} cannot be used and its cell runs again: {problem.reason}", file=sys.stderr)
    configs = dict(zip((planned.id for planned in table.planned), table.configs, strict=True))
    pending = launcher.pending(list(configs), scan.records)
    runs = [check_run(configs[id]) for id in pending]
    print(f"{table.spec.name}: {len(table.planned)} cells, {len(runs)} to run", file=sys.stderr)
    with stop_on_signals() as stop, sweep_progress(len(runs)) as progress:
        bench = Bench(store=store, stop=stop, on_step=progress.on_step)

        def carry_out(run: Run) -> Record:
            progress.start(f"{run.key.method} on {run.key.dataset}, seed {run.key.seed}")
            record = execute(run, bench)
            progress.finish(record)
            return record

        tally = launcher.launch(runs, execute=carry_out, stop=stop)
    print(publish(table, table.roll_up(store.scan())))
    for line in failures_text(tally.failed):
        print(line, file=sys.stderr)
    before = sum(planned.id not in pending for planned in table.planned)
    summary = f"{tally.ok} run, {len(tally.failed)} failed, {before} recorded before, {tally.left} left"
    print(f"{table.spec.name}: {summary}", file=sys.stderr)
    if tally.stopped is not None:
        print(tally.stopped, file=sys.stderr)
        return 1 if tally.failed else 130
    return 1 if tally.failed else 0


def publish(planned: PlannedTable, table: Table) -> str:
    """Write the table in every form and return its Markdown."""
    written = render.write_all(table, TABLES, planned.spec.name)
    names = ", ".join(path.suffix.removeprefix(".") for path in written)
    return f"{render.markdown(table)}\nwritten: {TABLES / planned.spec.name}.{{{names.replace(' ', '')}}}"
