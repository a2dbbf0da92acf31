"""Where a number comes from: commit, versions, device, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from results.record import Provenance
from runners.machine import ROOT, Machine

PACKAGES = (
    "torch",
    "accelerate",
    "open_clip_torch",
    "timm",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "hydra-core",
    "pandas",
)
UNRELATED = (":(exclude)docs", ":(exclude)results/published", ":(exclude)README.md", ":(exclude)CHANGELOG.md")


def provenance(
    machine: Machine, *, data_digests: Mapping[str, str], weights_digest: str | None, started_at: datetime
) -> Provenance:
    """Return the provenance of a run of this process."""
    device = machine.torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return Provenance(
        commit=git("rev-parse", "HEAD"),
        dirty=uncommitted(),
        versions=versions(),
        device=f"{device.type}: {name}",
        threads=torch.get_num_threads(),
        precision=machine.training_precision(),
        data_digests=dict(data_digests),
        weights_digest=weights_digest,
        command=shlex.join(["randlora", *sys.argv[1:]]),
        started_at=started_at.isoformat(timespec="seconds"),
    )


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def git(*arguments: str) -> str | None:
    """Return what git says in the suite's root, or None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def uncommitted() -> bool | None:
    """Return whether tracked files differ from the commit, or None where there is no repository.

    Documents and published results are left out: publishing writes them, and they change no number.
    """
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", *UNRELATED)
    return None if changes is None else bool(changes)


@cache
def processor() -> str:
    """Return the name of the CPU."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123 - a kernel file, not a path of ours
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
