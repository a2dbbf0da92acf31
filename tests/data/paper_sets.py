"""The 22 datasets of the paper, as the command line composes them."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from tiny_images import ROOT

from randlora.data.images import ImageDataset

TITLES = {
    **{"cars": "Cars", "dtd": "DTD", "eurosat": "EuroSAT", "gtsrb": "GTSRB", "mnist": "MNIST", "resisc45": "RESISC45"},
    **{"sun397": "SUN397", "svhn": "SVHN", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "imagenet": "ImageNet"},
    **{"stl10": "STL10", "food101": "Food101", "caltech101": "Caltech101", "caltech256": "Caltech256"},
    **{"fgvc_aircraft": "FGVCAircraft", "flowers102": "Flowers102", "oxford_pets": "OxfordIIITPet", "cub200": "CUB200"},
    **{"pascal_voc": "PascalVOC", "country211": "Country211", "ucf101": "UCF101"},
}
each = pytest.mark.parametrize("name", TITLES)


@cache
def paper_sets() -> Mapping[str, ImageDataset]:
    """Return every dataset by name, composed and built with the network out of reach."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a description of a dataset must not need the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", no_network)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = {name: compose("config", [f"dataset={name}"]).dataset for name in TITLES}
        return {name: instantiate(config, _convert_="all") for name, config in composed.items()}


def letters(name: str) -> str:
    """Return what is left of a class name without case, number, suffix and punctuation."""
    return re.sub("[^a-z0-9]", "", re.sub(r"^\d{3}\.|-101$", "", name).lower())
