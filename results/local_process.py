"""Whether a process that wrote something down is still there, where that can be known: on the very same computer."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SPACE = Path("/proc/self/ns/pid")


@cache
def here() -> str | None:
    """Return what tells this computer since it was started, and this container on it, from all others.

    None where the system does not say so (it is Linux that does): there, no process can be known to be gone.
    """
    try:
        return f"{_BOOT.read_text().strip()}/{_SPACE.readlink()}"
    except OSError:
        return None


def started(pid: int) -> str | None:
    """Return when a process of this computer was started, in the kernel's ticks since the computer was: no clock.

    None if there is no such process, or nobody to ask.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # the name of the program, in parentheses, may hold anything; then state is field 3 and the start is field 22
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def is_gone(*, place: str | None, pid: int | None, began: str | None) -> bool:
    """Return whether a process is known to have ended: it was on this computer and no longer is."""
    if place is None or place != here() or pid is None:
        return False
    return pid != os.getpid() and started(pid) != began
