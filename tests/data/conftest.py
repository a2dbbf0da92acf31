from __future__ import annotations

from collections.abc import Callable

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_images import ROOT

from randlora.data.images import ImageDataset


@pytest.fixture(scope="session")
def embedded() -> Callable[[str], ImageDataset]:
    return lambda name: instantiate(OmegaConf.load(ROOT / "conf" / "dataset" / f"{name}.yaml"), _convert_="all")
