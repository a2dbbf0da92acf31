"""Starting a model at random from a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_stream(seed: int) -> Iterator[None]:
    """Initialise from the seed and leave the global generator as it was: torch's initialisers take no generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
