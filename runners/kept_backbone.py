"""The backbone of the last run, kept as it was before the run changed it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from runners.plan import skeleton_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from randlora.backbones.base import Backbone

HOST = "cpu"


class KeptBackbone:
    """Builds backbones, and keeps the last one in the computer's memory where it is not too large.

    Every run gets a copy, on its own device: what one run does to the weights, another never sees. A single run has no
    use for one: ``keep`` is for processes that carry out several.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self._kept: tuple[tuple[Backbone, int | None], nn.Module, str | None] | None = None

    def build(
        self, backbone: Backbone, *, root: Path, device: torch.device, seed: int, max_bytes: float
    ) -> tuple[nn.Module, str | None]:
        """Return the model of a backbone and the digest of the weights it was built with.

        Arguments and errors as of :meth:`randlora.backbones.base.Backbone.build`. Up to ``max_bytes`` it is kept.
        """
        at_random = backbone == backbone.with_random_weights()
        key = (backbone, seed if at_random else None)
        if self._kept is not None and self._kept[0] == key:
            _, model, digest = self._kept
            return copy.deepcopy(model).to(device), digest
        self._kept = None  # before the next one is built: there need not be room for two
        digest = backbone.weights_digest(root=root)
        if not self.keep or backbone.packed or skeleton_bytes(backbone) > max_bytes:
            return backbone.build(root=root, device=device, seed=seed), digest
        import torch

        model = backbone.build(root=root, device=torch.device(HOST), seed=seed)
        self._kept = (key, model, digest)
        return copy.deepcopy(model).to(device), digest
