"""Whether a copy fits into the memory that is free."""

from __future__ import annotations

from pathlib import Path

import torch

SHARE = 0.8  # of the free memory that an audit may use
_MEMINFO = Path("/proc/meminfo")
CPU = torch.device("cpu")


def fits(needed: int, device: torch.device) -> bool:
    """Return whether ``needed`` bytes fit into the free memory of a device; yes where nothing tells what is free."""
    free = _free(device)
    return free is None or needed <= SHARE * free


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    if device.type == "cpu" and _MEMINFO.is_file():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
