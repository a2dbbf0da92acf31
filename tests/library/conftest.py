from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from configs import build
from torch import nn

from randlora.adapter import Targets
from randlora.backbones.clip import OpenClip


@pytest.fixture(scope="session")
def micro() -> OpenClip:
    """The embedded CLIP without its weights: the tests must pass before any were trained."""
    return dataclasses.replace(build("backbone", "micro_clip"), checkpoint=None)


@pytest.fixture
def micro_model(micro: OpenClip) -> nn.Module:
    return micro.build(root=Path(), device=torch.device("cpu"), seed=3).eval()


@pytest.fixture(scope="session")
def targets_of_backbone() -> Callable[..., Targets]:
    """What a backbone's YAML offers, from the real architecture on the meta device."""

    def find(name: str, **changes: object) -> Targets:
        backbone = dataclasses.replace(build("backbone", name), **changes)
        return backbone.targets_of(backbone.skeleton())

    return find
