"""Where the processes of a run meet before its training, and where they part after it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from randlora.inject import Adaptation
from runners.interrupt import Released
from runners.processes import Processes
from runners.sharding import gather
from runners.workload import Workload


def meet(processes: Processes, work: Workload, *, frozen: Mapping[str, object], stop: Callable[[], bool]) -> None:
    """Read the training data, the main process first, and compare what the processes start from.

    Args:
        processes: those of the run.
        work: its data.
        frozen: the checksums of the frozen tensors.
        stop: ends the waiting.

    Raises:
        RuntimeError: if the processes have other weights or other data.
    """
    with processes.main_first(stop):
        work.feed  # noqa: B018 - read and kept at the first look
    digest = hashlib.sha256(repr(sorted(frozen.items())).encode()).hexdigest()
    processes.check_equal({"frozen weights": digest, "training data": sorted(work.digests.items())})


def part(processes: Processes, adaptation: Adaptation, *, sharded: bool) -> None:
    """Leave the rest of a run to its main process, with all weights.

    Raises:
        Released: in the others.
    """
    if sharded:
        gather(adaptation)
    processes.part()
    if not processes.main:
        raise Released
