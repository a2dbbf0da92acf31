"""randlora sweep: run every missing cell of a table, then print the table.

Runs are carried out by persistent workers: one per GPU, or launcher.workers=N on a CPU, which share its cores out. Any
number of sweeps may work on the same results folder, from any number of computers: each run is carried out once.

What is recorded is not run again, so the same command continues an interrupted or killed sweep and, when everything is
there, only prints the table. A run that fails is a result too: its record says why, it does not stop the others, and it
is left as it is until retry= says otherwise. The exit code is 0 where no cell is failed or left, 1 where one is, 130
where the sweep was interrupted. Cells that are one run, such as the tasks of a language model, are run once.

Examples:
  randlora sweep table=demo
  randlora sweep table=demo launcher.workers=2 machine.device=cpu machine.keep_weights=false
  randlora sweep table=[micro_clip,micro_bases]                                   several tables, what they share once
  randlora sweep table=clip_vit_b32 "where={data: [1 shot], dataset: [DTD]}"      these cells alone
  randlora sweep table=demo retry=failed          those alone whose record says failed; retry=all: and the missing ones
  randlora sweep table=demo fail_fast=true launcher.timeout_s=3600
  randlora sweep table=clip_vit_b32 launcher=slurm launcher.workers=8 launcher.partition=gpu     docs/SWEEPS.md; or ray
  randlora sweep table=demo launcher=inline       one after another in this process, for a debugger
  randlora sweep table=demo format=json > demo.json            progress and messages go to stderr
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results import render
from results.record import Record
from runners.compose import ConfigError, instantiate, plain
from runners.formats import check_format, failures_text, newer_text, problems_text
from runners.plan import Planner
from runners.tables import FORMATS, TABLES, PlannedTable, chosen_labels, plan_table, store_of

if TYPE_CHECKING:
    from results.store import RecordStore, Scan
    from runners.launchers import Launcher
    from runners.plan import Run
    from runners.worklist import WorkList

CONFIG = "sweep"
FORWARDED = ("machine", "logger")
RETRIES = (None, "failed", "all")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the work ended: what to say of it, and whether that was before its end."""

    messages: tuple[str, ...] = ()
    early: bool = False


def main(config: DictConfig) -> int:
    """Run tables; return 0 if every cell is there, 1 if one is failed or left, 130 if the sweep was interrupted."""
    check_format(config.format, tuple(FORMATS))
    objects = instantiate(config)
    if objects["machine"].shard != "none":
        raise ConfigError("machine.shard is for a single run on several processes (torchrun), and not for a sweep")
    tables = _tables(config)
    launcher, store = objects["launcher"], store_of(objects["machine"].results)
    scan = store.scan()
    runs = {id: table for table in tables for id in table.runs}
    newer = {id: reason for id, reason in scan.newer.items() if id in runs}
    for line in (*problems_text(scan.problems, then=" and its cell runs again"), *newer_text(newer)):
        print(line, file=sys.stderr)
    pending = [id for id in _pending(config, list(runs), scan.records) if id not in newer]
    todo = _work_list(config, [runs[id].check(id) for id in pending], launcher, store)
    name = ", ".join(table.spec.name for table in tables)
    cells = sum(len(table.planned) for table in tables)
    shared = "" if cells == len(runs) else f" that are {len(runs)} run{'' if len(runs) == 1 else 's'}"
    print(f"{name}: {cells} cells{shared}, {len(pending)} to run{_by(launcher, todo)}", file=sys.stderr)
    ended = _carry_out(todo, launcher)
    if todo.runs and not launcher.waits:
        return 0
    left = set(todo.left(store))
    scan = store.scan()
    for table in tables:
        _print(table, scan, form=config.format, part=bool(config.where))
    failed = {id: scan.records[id].reason or "" for id in runs if _has_failed(scan.records.get(id))}
    for line in failures_text(failed):
        print(line, file=sys.stderr)
    done = [id for id in pending if id not in left]
    newly = sum(id in failed for id in done)
    before = len(runs) - len(pending)
    summary = f"{len(done) - newly} run, {newly} failed, {before} recorded before, {len(left)} left"
    print(f"{name}: {summary}", file=sys.stderr)
    for message in ended.messages:
        print(message, file=sys.stderr)
    if failed:
        again = f"table={config.table} retry=failed"
        print(f"{len(failed)} failed: 'randlora sweep {again}' runs them again", file=sys.stderr)
    if ended.early and not newly:
        return 130
    return 1 if failed or left else 0


def _tables(config: DictConfig) -> list[PlannedTable]:
    names = plain(config.table)
    names = list(dict.fromkeys(names)) if isinstance(names, list) else [names]
    if not names:
        raise ConfigError("table=[] names none; give one with table=demo, or several with table=[demo,micro_clip]")
    for name in ("rerun", "fail_fast"):
        if not isinstance(config[name], bool):
            raise ConfigError(f"{name}={config[name]}: valid: true or false")
    where = chosen_labels(config.where)
    if len(names) > 1 and where:
        raise ConfigError("where= takes labels of one table, and table= names several; sweep them one by one")
    if len(names) > 1 and config.format in ("json", "csv"):
        raise ConfigError(f"format={config.format} prints one table, and table= names several; take format=markdown")
    overrides = [str(override) for override in config.hydra.overrides.task]
    forwarded = [one for one in overrides if one.partition("=")[0].partition(".")[0] in FORWARDED]
    planner = Planner()
    return [plan_table(str(name), forwarded=forwarded, where=where, planner=planner) for name in names]


def _pending(config: DictConfig, ids: Sequence[str], records: Mapping[str, Record]) -> list[str]:
    """Return the ids of the runs that are to be carried out."""
    if config.retry not in RETRIES:
        raise ConfigError(f"retry={config.retry}: valid: failed (those alone), all (and the missing ones), null")
    if config.rerun:
        return list(ids)
    missing = [] if config.retry == "failed" else [id for id in ids if id not in records]
    failed = [id for id in ids if config.retry is not None and _has_failed(records.get(id))]
    wanted = {*missing, *failed}
    return [id for id in ids if id in wanted]


def _work_list(config: DictConfig, runs: Sequence[Run], launcher: Launcher, store: RecordStore) -> WorkList:
    from runners.worklist import Rules, WorkList

    rules = Rules(
        attempts=launcher.attempts,
        timeout_s=launcher.timeout_s,
        fail_fast=bool(config.fail_fast),
        stale_after_s=launcher.stale_after_s,
    )
    return WorkList.of(runs, store=store, rules=rules)


def _by(launcher: Launcher, todo: WorkList) -> str:
    count = launcher.workers_for(todo) if todo.runs else 1
    return f" by {count} workers" if count > 1 else ""


def _carry_out(todo: WorkList, launcher: Launcher) -> Ended:
    from results.claims import Claims
    from runners.interrupt import stop_on_signals
    from runners.sweep_progress import sweep_progress

    if not todo.runs:
        return Ended()
    Claims(todo.results).bury()
    named = launcher.workers_for(todo) > 1
    with stop_on_signals() as stop, sweep_progress(len(todo.runs), named=named) as show:
        launcher.launch(todo, show=show, stop=stop)
    messages = list(show.stopped)
    if todo.rules.fail_fast and show.failed:
        messages.append("stopped at the first failure (fail_fast=true)")
    elif stop():
        messages.append("interrupted; the same command continues")
    return Ended(messages=tuple(messages), early=stop())


def _print(table: PlannedTable, scan: Scan, *, form: str, part: bool) -> None:
    rolled = table.roll_up(scan)
    file = f"{table.spec.name}_part" if part else table.spec.name
    written = render.write_all(rolled, TABLES, file)
    print(FORMATS[form](rolled), end="")
    forms = ",".join(path.suffix.removeprefix(".") for path in written)
    print(f"\nwritten: {TABLES / file}.{{{forms}}}", file=sys.stderr)


def _has_failed(record: Record | None) -> bool:
    return record is not None and record.status == "failed"
