"""randlora run: train and evaluate one configuration, and record it.

Everything is checked before anything is loaded. A configuration that is recorded already is not run again; one that was
interrupted continues where it stopped.

Examples:
  randlora run method=randlora dataset=mini_eurosat recipe.shots=16 seed=1
  randlora run method=lora budget=match_lora budget.reference.rank=4 dataset=mini_mnist
  randlora run -m method=lora,randlora dataset=mini_mnist,mini_eurosat seed=1,2,3     Hydra's multirun
  randlora run backbone=clip_vit_b32 recipe=clip dataset=mini_eurosat logger=wandb
  randlora run method=vera --cfg job                                        print the configuration and stop
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from results.record import RecordError
from results.units import duration, quantity, size
from runners.compose import instantiate

if TYPE_CHECKING:
    from results.record import Record
    from results.store import RecordStore

CONFIG = "config"


def main(config: DictConfig) -> int:
    """Run one configuration; return 0 if its record is ok, 1 if it failed, 130 if it was interrupted."""
    from results.store import RecordStore
    from runners.execute import Bench, execute
    from runners.interrupt import Interrupted, stop_on_signals
    from runners.plan import check_run
    from runners.progress import run_progress

    run = check_run(config)
    launcher = instantiate(config)["launcher"]
    store = RecordStore(run.machine.results_path)
    record = _recorded(store, run.id)
    if record is not None and not launcher.pending([run.id], {run.id: record}):
        print(f"recorded before, not run again (launcher.rerun=true runs it): {store.folder(run.id)}", file=sys.stderr)
    else:
        title = f"{run.key.method} on {run.key.dataset}"
        with stop_on_signals() as stop, run_progress(title) as shown:
            try:
                record = execute(run, Bench(store=store, stop=stop, on_step=shown.on_step, on_judged=shown.on_judged))
            except Interrupted as interrupted:
                print(interrupted, file=sys.stderr)
                return 130
    print(describe(record))
    print(f"record: {store.folder(run.id) / 'record.json'}")
    return 0 if record.status == "ok" else 1


def _recorded(store: RecordStore, id: str) -> Record | None:
    """Return the record of a run; one that cannot be read is none, as in a sweep."""
    try:
        return store.read(id)
    except RecordError as error:
        print(f"warning: {error}; running it again", file=sys.stderr)
        return None


def describe(record: Record) -> str:
    """Return a record in a few lines."""
    lines = [
        f"{record.key.method} | {record.key.backbone} | {record.key.dataset} | seed {record.key.seed}: {record.status}"
    ]
    if record.reason:
        lines.append(f"  reason: {record.reason}")
    lines += [f"  {name}: {100 * value:.2f} %" for name, value in record.metrics.items()]
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
