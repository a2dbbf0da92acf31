"""Independent random streams derived from one seed; nothing in the library reads the global generator."""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of a run.

    Streams of different purposes are independent: ``seed_for(1, "bases")`` says nothing about ``seed_for(1, "shots")``.

    Raises:
        ValueError: if no purpose is given.
    """
    if not purpose:
        raise ValueError("seed_for needs a purpose, such as 'bases' or 'data order'")
    text = "\x1f".join([str(int(seed)), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose of a run; CPU, so that values do not depend on the device."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
