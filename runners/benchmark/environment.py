"""Where a benchmark is measured."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import datetime

import torch

from results.bench_record import Environment
from runners.provenance import git, processor, uncommitted, versions


def environment(device: torch.device, started_at: datetime) -> Environment:
    """Return device, cores, threads, versions, commit and command of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return Environment(
        device=f"{device.type}: {name}",
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        versions=versions(),
        commit=git("rev-parse", "HEAD"),
        dirty=uncommitted(),
        command=shlex.join(["randlora", *sys.argv[1:]]),
        started_at=started_at.isoformat(timespec="seconds"),
    )
