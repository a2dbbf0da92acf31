"""randlora sweep: run every missing cell of a table, then print the table.

Cells that are one run, such as the tasks of a language model, are run once. What is recorded is not run again, so the
same command continues an interrupted sweep and, when everything is there, only prints the table. A run that fails
leaves a record with its reason and does not stop the others; the exit code says so.

Examples:
  randlora sweep table=demo
  randlora sweep table=demo machine.device=cpu machine.keep_weights=false
  randlora sweep table=clip_vit_b32 "where={data: [1 shot], dataset: [DTD]}"      these cells alone
  randlora sweep table=demo launcher.retry_failed=false        leave failed cells as they are
  randlora sweep table=demo format=json > demo.json            progress and messages go to stderr
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results import render
from runners.compose import ConfigError, instantiate
from runners.formats import check_format, failures_text, problems_text
from runners.tables import FORMATS, TABLES, chosen_labels, plan_table, store_of

if TYPE_CHECKING:
    from results.record import Record
    from results.store import RecordStore
    from runners.launchers import Local, Tally
    from runners.plan import Run

CONFIG = "sweep"
FORWARDED = ("machine", "logger")


def main(config: DictConfig) -> int:
    """Run a table; return 0 if no cell is failed, 1 if one is, 130 if the sweep was interrupted."""
    check_format(config.format, tuple(FORMATS))
    overrides = [str(override) for override in config.hydra.overrides.task]
    forwarded = [one for one in overrides if one.partition("=")[0].partition(".")[0] in FORWARDED]
    where = chosen_labels(config.where)
    planned = plan_table(config.table, forwarded=forwarded, where=where)
    objects = instantiate(config)
    if objects["machine"].shard != "none":
        raise ConfigError("machine.shard is for a single run on several processes (torchrun); a sweep is one process")
    launcher, store = objects["launcher"], store_of(objects["machine"].results)
    scan = store.scan()
    for line in problems_text(scan.problems, then=" and its cell runs again"):
        print(line, file=sys.stderr)
    ids = list(planned.runs)
    pending = launcher.pending(ids, scan.records)
    runs = [planned.check(id) for id in pending]
    name, cells = planned.spec.name, len(planned.planned)
    shared = "" if cells == len(ids) else f" that are {len(ids)} run{'' if len(ids) == 1 else 's'}"
    print(f"{name}: {cells} cells{shared}, {len(runs)} to run", file=sys.stderr)
    tally = _carry_out(runs, launcher, store)
    scan = store.scan()
    table = planned.roll_up(scan)
    file = f"{name}_part" if where else name
    written = render.write_all(table, TABLES, file)
    print(FORMATS[config.format](table), end="")
    failed = {id: scan.records[id].reason or "" for id in ids if _has_failed(scan.records.get(id))}
    for line in failures_text(failed):
        print(line, file=sys.stderr)
    forms = ",".join(path.suffix.removeprefix(".") for path in written)
    print(f"\nwritten: {TABLES / file}.{{{forms}}}", file=sys.stderr)
    before = len(ids) - len(pending)
    summary = f"{tally.ok} run, {len(tally.failed)} failed, {before} recorded before, {tally.left} left"
    print(f"{name}: {summary}", file=sys.stderr)
    if tally.stopped is not None:
        print(tally.stopped, file=sys.stderr)
        return 1 if tally.failed else 130
    return 1 if failed else 0


def _has_failed(record: Record | None) -> bool:
    return record is not None and record.status == "failed"


def _carry_out(runs: Sequence[Run], launcher: Local, store: RecordStore) -> Tally:
    from runners.execute import Bench, execute
    from runners.interrupt import stop_on_signals
    from runners.progress import sweep_progress

    with stop_on_signals() as stop, sweep_progress(len(runs)) as progress:
        bench = Bench(store=store, stop=stop, on_step=progress.on_step, on_judged=progress.on_judged)

        def carry_out(run: Run) -> Record:
            progress.start(f"{run.key.method} on {run.key.dataset}, seed {run.key.seed}")
            record = execute(run, bench)
            progress.finish(record)
            return record

        return launcher.launch(runs, execute=carry_out, stop=stop)
