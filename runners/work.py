"""The loop of one worker: take a run that nobody has, carry it out, take the next."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime

from results.claims import Claim, Claims
from results.files import write_text
from results.record import Failure, Record
from results.store import RecordStore
from results.units import span
from runners.events import Elsewhere, Judged, Recorded, Report, Started, Stepped, Stopped, Waiting
from runners.execute import Bench, execute
from runners.failures import failed_record
from runners.heartbeat import GRACE_S, Heartbeat
from runners.interrupt import Interrupted
from runners.kept_backbone import KeptBackbone
from runners.plan import Run
from runners.run_log import FAILURE, LOG, output_to, tail
from runners.worklist import Group, WorkList, group_of

POLL_S = 0.5
LOG_LINES = 30
HUNG = 75  # exit code of a worker whose run did not stop when its time was over


class Worker:
    """Carries out runs of a work list until none is left, beside any number of others on the same folder.

    Args:
        todo: the work list.
        name: what people call this worker.
        number: its number among ``count`` that start together, from 0: each begins with another group of runs.
        count: how many these are.
        own_process: whether the process is the worker's own: what its runs print goes to their logs, and a run that
            does not stop takes the process with it.
        stop: asked between steps and between runs.
        report: is told what happens.

    Attributes:
        grace_s: seconds that a run whose time is over has to come to the end of a step.
    """

    grace_s = GRACE_S

    def __init__(
        self,
        todo: WorkList,
        *,
        name: str,
        number: int = 0,
        count: int = 1,
        own_process: bool,
        stop: Callable[[], bool],
        report: Report,
    ) -> None:
        self.todo = todo
        self.own_process = own_process
        self.stop = stop
        self.report = report
        self.store = RecordStore(todo.results)
        self.claims = Claims(todo.results, stale_after_s=todo.rules.stale_after_s, worker=name)
        self.left = {run.id: run for run in todo.runs}
        self.bench = Bench(
            store=self.store,
            stop=self._should_stop,
            on_step=self._on_step,
            on_judged=lambda scorer, done, total: self.report(Judged(scorer=scorer, done=done, total=total)),
            backbone=KeptBackbone(keep=len(todo.runs) > 1),
            is_ours=self._is_ours,
        )
        groups = list(dict.fromkeys(map(group_of, todo.runs)))
        start = number * len(groups) // max(1, count)
        self._order = {group: place for place, group in enumerate(groups[start:] + groups[:start])}
        self._group: Group | None = None
        self._beat: Heartbeat | None = None
        self._failed = False

    def work(self) -> None:
        """Work until nothing is left, somebody says stop, or a run fails that is not to.

        Raises:
            StoreError: if the disk refuses what a run writes; the run keeps its state.
        """
        while self.left and not self.stop() and not (self._failed and self.todo.rules.fail_fast):
            taken = self._take()
            if taken is None:
                if self.left:
                    self.report(Waiting(left=len(self.left)))
                    time.sleep(POLL_S)
                continue
            run, claim = taken
            self._group = group_of(run)
            try:
                self._carry_out(run, claim)
            finally:
                claim.release()

    def _take(self) -> tuple[Run, Claim] | None:
        held = {id for id, holder in self.claims.running().items() if not self.claims.is_dead(holder)}
        for run in self._preferred(held & self.left.keys()):
            if self._is_done(run):
                continue
            claim = self.claims.take(run.id)
            if claim is None:
                continue
            if not self._is_done(run):
                return run, claim
            claim.release()
        return None

    def _is_done(self, run: Run) -> bool:
        """Return whether somebody has recorded a run, and leave it out from now on."""
        if not self.todo.is_done(self.store, run.id):
            return False
        del self.left[run.id]
        self.report(Elsewhere(run=run.id))
        return True

    def _preferred(self, held: Iterable[str]) -> Iterator[Run]:
        """Yield the runs that nobody has: those of the group at hand, then of groups that few are at."""
        busy: dict[Group, int] = {}
        for id in held:
            group = group_of(self.left[id])
            busy[group] = busy.get(group, 0) + 1

        def rank(run: Run) -> tuple[bool, int, int]:
            group = group_of(run)
            return group != self._group, busy.get(group, 0), self._order[group]

        yield from sorted((run for run in list(self.left.values()) if run.id not in set(held)), key=rank)

    def _carry_out(self, run: Run, claim: Claim) -> None:
        self.report(Started(run=run.id, title=title_of(run)))
        with self._output(run):
            given_up = claim.deaths >= self.todo.rules.attempts
            record = self._lost(run, claim) if given_up else self._execute(run, claim)
        if record is None:
            return
        del self.left[run.id]
        self._failed |= record.status != "ok"
        self.report(Recorded.of(record))

    def _execute(self, run: Run, claim: Claim) -> Record | None:
        """Return the record of a run, None where it stopped before its end."""
        limit = self.todo.rules.timeout_s
        on_hung = (lambda: self._give_up(run, claim)) if self.own_process else None
        with Heartbeat(claim, timeout_s=limit, on_hung=on_hung, grace_s=self.grace_s) as self._beat:
            try:
                return execute(run, self.bench)
            except Interrupted as stopped:
                if self._beat.timed_out and not self.stop():
                    return self._timed_out(run)
                self.report(Stopped(run=run.id, message=str(stopped)))
                return None

    def _timed_out(self, run: Run) -> Record:
        limit = self.todo.rules.timeout_s or 0.0
        reason = (
            f"timed out after {span(limit)} {self.bench.place}; it continues from there with more time "
            "(launcher.timeout_s) and retry=failed"
        )
        place = self.bench.place
        failure = Failure(kind="timed_out", step=place.step, steps=place.steps)
        return self._write(failed_record(run, failure, reason))

    def _give_up(self, run: Run, claim: Claim) -> None:
        """End the process with its run, which does not come to the end of a step."""
        if claim.is_held():
            self._timed_out(run)
            claim.release()
        os._exit(HUNG)

    def _lost(self, run: Run, claim: Claim) -> Record:
        """Record a run that its workers do not survive."""
        log = self.store.folder(run.id) / LOG
        reason = (
            f"worker died: {claim.deaths} processes ended while they had this run; if its {LOG} does not say why, the "
            "system may have ended them for want of memory"
        )
        write_text(self.store.folder(run.id) / FAILURE, "\n".join(tail(log, lines=LOG_LINES)) + "\n")
        return self._write(failed_record(run, Failure(kind="worker_died"), reason))

    def _write(self, record: Record) -> Record:
        self.store.write(record)
        return record

    def _output(self, run: Run) -> AbstractContextManager[None]:
        return run_output(self.store, run, self.claims.worker) if self.own_process else nullcontext()

    def _should_stop(self) -> bool:
        return self.stop() or (self._beat is not None and (self._beat.lost or self._beat.timed_out))

    def _is_ours(self) -> bool:
        return self._beat is None or self._beat.claim.is_held()

    def _on_step(self, done: int, total: int, values: Mapping[str, float]) -> None:
        self.report(Stepped(done=done, total=total))


def title_of(run: Run) -> str:
    """Return what people call a run."""
    return f"{run.key.method} on {run.key.dataset}, seed {run.key.seed}"


@contextmanager
def run_output(store: RecordStore, run: Run, worker: str) -> Iterator[None]:
    """Let what is printed go to the log of a run, under a line that says who prints it and since when."""
    with output_to(store.folder(run.id) / LOG):
        print(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {worker}: {title_of(run)}", flush=True)
        yield
