"""randlora run: train and evaluate one configuration, and record it.

Everything is checked before anything is loaded. A configuration that is recorded already is not run again; one that was
interrupted continues where it stopped.

Examples:
  randlora run method=randlora dataset=mini_eurosat recipe.shots=16 seed=1
  randlora run method=lora budget=match_lora budget.reference.rank=4 dataset=mini_mnist
  randlora run -m method=lora,randlora dataset=mini_mnist,mini_eurosat seed=1,2,3     Hydra's multirun
  randlora run backbone=clip_vit_b32 recipe=clip dataset=mini_eurosat logger=wandb
  randlora run method=vera --cfg job                                        print the configuration and stop
  torchrun --nproc-per-node 2 -m runners.cli run …                          one run on two GPUs (docs/COMMONSENSE.md)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tabulate import tabulate

from results.record import NewerRecordError, RecordError
from results.units import duration, quantity, size
from runners.compose import ConfigError

if TYPE_CHECKING:
    from results.record import Record
    from results.store import RecordStore
    from runners.plan import Run
    from runners.processes import Processes

CONFIG = "config"
PASSED_ON_S = 5.0  # in which a launcher passes on a signal that its processes have had


def main(config: DictConfig) -> int:
    """Run one configuration; return 0 if its record is ok, 1 if it failed, 130 if it was interrupted."""
    from results.store import RecordStore
    from runners.execute import Bench, execute
    from runners.interrupt import Interrupted, Released, stop_on_signals
    from runners.plan import check_run
    from runners.processes import Processes
    from runners.progress import console, run_progress

    processes = Processes.launched()
    console.quiet = not processes.main
    run = check_run(config)
    check_processes(run, processes)
    store = RecordStore(run.machine.results_path)
    record = _recorded(store, run.id)
    if record is not None and record.status != "failed" and not config.rerun:
        if not processes.main:
            return 0
        print(f"recorded before, not run again (rerun=true runs it): {store.folder(run.id)}", file=sys.stderr)
    else:
        title = f"{run.key.method} on {run.key.dataset}"
        patience = 0.0 if processes.alone else PASSED_ON_S
        with (
            claimed(run, store, processes) as is_ours,
            stop_on_signals(again_after_s=patience) as stop,
            run_progress(title) as shown,
        ):
            processes.connect(run.machine.torch_device())
            bench = Bench(store=store, stop=lambda: stop() or not is_ours(), processes=processes, is_ours=is_ours)
            if processes.main:
                bench.on_step, bench.on_judged = shown.on_step, shown.on_judged
            try:
                record = execute(run, bench)
            except Released:
                return 0
            except Interrupted as interrupted:
                print(interrupted, file=sys.stderr)
                return 130
    print(describe(record))
    print(f"record: {store.folder(run.id) / 'record.json'}")
    return 0 if record.status == "ok" else 1


@contextmanager
def claimed(run: Run, store: RecordStore, processes: Processes) -> Iterator[Callable[[], bool]]:
    """Hold the claim on a run for the block, in the main process, and yield what tells whether it is still held.

    Raises:
        ConfigError: if somebody else is at the run.
    """
    if not processes.main:
        yield lambda: True
        return
    from results.claims import Claims
    from runners.heartbeat import Heartbeat

    claims = Claims(store.root, worker="a single run")
    claims.bury()
    claim = claims.take(run.id)
    if claim is None:
        holder = claims.running().get(run.id)
        who = f"{holder.worker} (process {holder.pid} on {holder.host}, since {holder.since})" if holder else "another"
        raise ConfigError(
            f"run {run.id} is under way: {who} has it. Wait for it; if that computer is no more, remove "
            f"{claims.folder}/{run.id}.*"
        )
    try:
        with Heartbeat(claim, timeout_s=None) as beat:
            yield lambda: not beat.lost
    finally:
        claim.release()


def check_processes(run: Run, processes: Processes) -> None:
    """Raise ConfigError where the processes that were started cannot carry out a run together."""
    from runners.sharding import check_sharding

    if not processes.alone and not run.recipe.task.separable:
        raise ConfigError(
            "the loss of this recipe compares the samples of a batch with one another, which processes cannot share "
            "out; start one process"
        )
    try:
        if run.machine.shard == "model":
            check_sharding(run.solution.method, processes, backbone=run.backbone)
        processes.check_devices(run.machine.torch_device())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _recorded(store: RecordStore, id: str) -> Record | None:
    """Return the record of a run; one that cannot be read is none, as in a sweep.

    Raises:
        NewerRecordError: if a newer version of the suite has written it.
    """
    try:
        return store.read(id)
    except NewerRecordError:
        raise
    except RecordError as error:
        print(f"warning: {error}; running it again", file=sys.stderr)
        return None


def _scores(metrics: Mapping[str, float]) -> list[str]:
    """Return one line per metric, or per task where several tasks have several metrics each."""
    tasks: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        task, _, metric = name.partition("/")
        tasks.setdefault(task, {})[metric] = value
    if len(tasks) <= 1:
        return [f"  {name}: {100 * value:.2f} %" for name, value in metrics.items()]
    columns = list(dict.fromkeys(metric for own in tasks.values() for metric in own))
    rows = [[task, *(_percent(own.get(name)) for name in columns)] for task, own in tasks.items()]
    headers = ["in %", *(name.replace("_", " ") for name in columns)]
    text = tabulate(rows, headers=headers, disable_numparse=True, stralign="right", maxheadercolwidths=12)
    return [f"  {line}" for line in text.splitlines()]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def describe(record: Record) -> str:
    """Return a record in a few lines."""
    lines = [
        f"{record.key.method} | {record.key.backbone} | {record.key.dataset} | seed {record.key.seed}: {record.status}"
    ]
    if record.reason:
        lines.append(f"  reason: {record.reason}")
    lines += _scores(record.metrics)
    if record.parameters is not None:
        counts = record.parameters
        backbone, head = quantity(counts.adapter), quantity(counts.head)
        text = f"  trainable: {backbone} in the backbone, {head} in the head"
        if counts.budget_asked is not None:
            text += f" (budget {counts.budget_asked:,}, reached {counts.budget_reached:,})"
        lines.append(text)
        if counts.budget_note:
            lines.append(f"  note: {counts.budget_note}")
    if record.timing is not None and record.timing.step_median_s is not None:
        lines.append(f"  step: {duration(record.timing.step_median_s)} (median of {record.timing.steps})")
    train = record.memory.train if record.memory is not None else None
    if train is not None:
        peak = train.allocated_bytes if train.allocated_bytes is not None else train.process_peak_bytes
        kind = "allocated" if train.allocated_bytes is not None else "process"
        if peak is not None:
            lines.append(f"  peak memory in training ({kind}): {size(peak)}")
    return "\n".join(lines)
