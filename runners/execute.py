"""One run from its data to its record."""

from __future__ import annotations

import dataclasses
import errno
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from randlora.data.cache import DecodedCache
from randlora.data.errors import DiskError
from randlora.inject import Adaptation, fingerprint
from randlora.seeds import seed_for
from randlora.storage import save_adapter
from randlora.tasks.base import Objective
from results.files import StoreError, write_text
from results.record import Parameters, Record, Timing
from results.store import RecordStore
from runners.auditing import AuditError, Auditor
from runners.checkpoint import Checkpointer
from runners.failures import Place, failure_of
from runners.image_workload import ImageWorkload
from runners.interrupt import Interrupted, Released
from runners.kept_backbone import KeptBackbone
from runners.loggers import NoLog
from runners.machine import ROOT
from runners.memory import MemoryMeter
from runners.plan import ImageRun, QuestionRun, Run
from runners.processes import ALONE, Processes
from runners.provenance import provenance
from runners.question_workload import QuestionWorkload
from runners.run_facts import left_beside, parameters_of
from runners.run_log import FAILURE
from runners.sharding import merge_gathered, shard
from runners.together import meet, part
from runners.trainer import OnStep, Trained, TrainingClock, train
from runners.workload import OnJudged, Workload

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

MIB = 2**20
# the machine's trouble and not the run's: no reason for a failed record
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(kw_only=True)
class Bench:
    """What runs of one process share: decoded data, verdicts of audits, the record store, and how to stop.

    With several ``processes`` they carry out a single run. ``is_ours`` is asked before a record is written: whether
    nobody has taken the run over in the meantime. ``place`` is how far the run under way is.
    """

    store: RecordStore
    stop: Callable[[], bool]
    on_step: OnStep = lambda done, total, values: None
    on_judged: OnJudged = lambda scorer, done, total: None
    cache: DecodedCache = field(default_factory=DecodedCache)
    auditor: Auditor = field(default_factory=Auditor)
    backbone: KeptBackbone = field(default_factory=KeptBackbone)
    place: Place = field(default_factory=Place)
    processes: Processes = ALONE
    is_ours: Callable[[], bool] = lambda: True


def execute(run: Run, bench: Bench) -> Record:
    """Train and evaluate a run, write its record and return it. What goes wrong inside the run becomes a failed record.

    Of several processes the main one judges and records the run; one in which something goes wrong records that.

    Raises:
        Interrupted: if the run was asked to stop or another process ended; its state is kept and this process writes no
            record.
        Released: in the other processes, once the training is over.
        StoreError: if the disk refuses what the run writes; its checkpoint is kept and no record is written.
    """
    try:
        return _execute(run, bench)
    except Released:
        raise
    except BaseException:
        bench.processes.claim_end()
        raise


def _execute(run: Run, bench: Bench) -> Record:
    began, started_at = time.perf_counter(), datetime.now(UTC)
    folder, count = bench.store.folder(run.id), bench.processes.count
    log = run.logger.open(id=run.id, folder=folder, config=run.config) if bench.processes.main else NoLog()
    bench.place = Place()
    facts: dict[str, Any] = {}
    try:
        outcome = _outcome(run, bench, facts, log_step=log.step)
    except StoreError:
        raise
    except DiskError as error:
        raise StoreError(str(error)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
            raise StoreError(
                f"cannot write in {folder}: {error.strerror}; free some space and run it again, what is there is intact"
            ) from error
        if bench.processes.lost(error):
            raise Interrupted("stopped: another process of this run ended; the same command continues") from error
        if not bench.processes.claim_end():
            raise Interrupted("stopped: another process of this run failed, and the record says why") from error
        failure, reason = failure_of(error, bench.place)
        outcome = {"status": "failed", "reason": reason, "failure": failure}
        if isinstance(error, AuditError):
            outcome["checks"] = error.checks
        write_text(folder / FAILURE, traceback.format_exc())
    source = provenance(
        run.machine,
        data_digests=facts.get("digests", {}),
        weights_digest=facts.get("weights"),
        started_at=started_at,
    )
    if "timing" in outcome:
        outcome["timing"]["total_s"] = time.perf_counter() - began
        outcome["timing"] = Timing(**outcome["timing"])
    source = dataclasses.replace(source, processes=count)
    record = Record(id=run.id, key=run.key, config=run.config, provenance=source, **outcome)
    if not bench.is_ours():
        raise Interrupted("stopped: the run was taken over by another process")
    bench.store.write(record)
    if record.status == "ok":
        (folder / FAILURE).unlink(missing_ok=True)
    log.finish({"status": record.status, "metrics": dict(record.metrics), "id": record.id})
    _checkpointer(run, bench).clear()
    if "work" in facts:
        facts["work"].clear()
    return record


def _outcome(run: Run, bench: Bench, facts: dict[str, Any], *, log_step: Callable[..., None]) -> dict[str, Any]:
    began = time.perf_counter()
    accelerator = run.machine.prepare()
    device = accelerator.device
    meter = MemoryMeter(device)
    with meter.phase("load"), bench.processes.main_first(bench.stop):
        model, facts["weights"] = bench.backbone.build(
            run.backbone,
            root=ROOT,
            device=device,
            seed=seed_for(run.seed, "weights"),
            max_bytes=run.machine.keep_backbone_mib * MIB,
        )
        if run.machine.recompute_blocks:
            run.backbone.recompute_blocks(model)
        work = _workload(run, bench, model, device)
        facts |= {"work": work, "digests": work.digests}
    loaded_s = time.perf_counter() - began
    # in no phase: what an audit takes, it takes once per process
    audited = bench.auditor.verdict(model, backbone=run.backbone, method=run.solution.method, machine=run.machine)
    began = time.perf_counter()
    with meter.phase("load"):
        adaptation = run.solution.method.apply(
            model, run.backbone.targets_of(model), seed=run.seed, execution=run.machine.execution
        )
        work.adapt(adaptation)
    loaded_s += time.perf_counter() - began
    counts = parameters_of(run.solution, adaptation, work.objective)
    before = fingerprint(adaptation.frozen())
    trained = Trained(clock=TrainingClock(), notes=())
    trains = counts["adapter"] + counts["head"] > 0
    sharded = trains and run.machine.shard == "model"
    if trains:
        with meter.phase("train"):
            meet(bench.processes, work, frozen=before, stop=bench.stop)
            if sharded:
                shard(adaptation)
            trained = _train(run, bench, work, adaptation, accelerator, log_step=log_step)
    part(bench.processes, adaptation, sharded=sharded)
    changed = [name for name, sums in fingerprint(adaptation.frozen()).items() if sums != before[name]]
    if changed:
        raise RuntimeError(f"{len(changed)} frozen tensors changed during training, among them '{changed[0]}'")
    counts["saved_bytes"] = _save(run, bench, adaptation, work.objective)
    merge_gathered(adaptation) if sharded else adaptation.merge()
    bench.place.trained()
    evaluated = time.perf_counter()
    with meter.phase("evaluation"):
        found = work.judge()
    bench.store.write_predictions(run.id, found.frame)
    timing = {**trained.clock.summary(), "load_s": loaded_s, "eval_s": time.perf_counter() - evaluated}
    return {
        "status": "ok",
        "metrics": dict(found.metrics),
        "checks": {
            "frozen_unchanged": True,
            "count_as_predicted": counts["predicted"] == counts["adapter"],
            **audited,
        },
        "notes": (*work.notes, *trained.notes, *left_beside(adaptation), *found.notes),
        "parameters": Parameters(**counts),
        "memory": meter.memory(),
        "timing": timing,
    }


def _workload(run: Run, bench: Bench, model: nn.Module, device: torch.device) -> Workload:
    if isinstance(run, QuestionRun):
        folder = bench.store.folder(run.id)
        return QuestionWorkload(run, model, folder=folder, device=device, stop=bench.stop, on_judged=bench.on_judged)
    assert isinstance(run, ImageRun)
    return ImageWorkload(run, model, cache=bench.cache, device=device, stop=bench.stop)


def _train(
    run: Run,
    bench: Bench,
    work: Workload,
    adaptation: Adaptation,
    accelerator: Accelerator,
    *,
    log_step: Callable[..., None],
) -> Trained:
    def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
        bench.place.passed(done, total)
        if values:
            log_step(done, values)
        bench.on_step(done, total, values)

    bench.place.begun()
    return train(
        work.objective,
        backbone=adaptation.trainable(),
        recipe=run.recipe,
        feed=work.feed,
        accelerator=accelerator,
        seed=seed_for(run.seed, "training"),
        checkpointer=_checkpointer(run, bench),
        step_scope=adaptation.accumulating,
        selection=work.selection(log=log_step),
        on_step=on_step,
        stop=bench.stop,
        processes=bench.processes,
    )


def _checkpointer(run: Run, bench: Bench) -> Checkpointer:
    return Checkpointer(
        bench.store.folder(run.id) / "checkpoint.pt",
        run=run.id,
        every_s=run.machine.checkpoint_every_s,
        every_steps=run.machine.checkpoint_every_steps,
        writes=bench.processes.main,
    )


def _save(run: Run, bench: Bench, adaptation: Adaptation, objective: Objective) -> int | None:
    head = dict(objective.head.named_parameters())
    if not adaptation.trainable() and not head:
        return None
    path = bench.store.folder(run.id) / "adapter.safetensors"
    size = save_adapter(path, adaptation, head=head)
    if not run.machine.keep_weights:
        path.unlink()
    return size
