"""The predicted size of a saved adapter against real files of every method."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from configs import ADAPTER_METHODS, METHODS
from tiny_models import Tiny, adapt, fitted, targets_of
from torch import nn

from randlora.backbones.clip import OpenClip
from randlora.storage import overhead_bytes, save_adapter, saved_bytes


@pytest.mark.parametrize("name", METHODS)
def test_a_file_is_no_larger_than_predicted_and_hardly_smaller(name: str, tmp_path: Path) -> None:
    adaptation = adapt(METHODS[name])
    targets = dataclasses.replace(targets_of(Tiny()), sites=tuple(adaptation.sites))
    real = save_adapter(tmp_path / "adapter", adaptation)
    assert real == (tmp_path / "adapter").stat().st_size
    above = saved_bytes(adaptation.method, targets) - real
    # tensors that stand in the file one by one
    tensors = 0 if name in ADAPTER_METHODS else len(adaptation.trainable())
    assert 0 <= above < 1024 + 64 * tensors


@pytest.mark.parametrize("name", ["randlora", "lora", "full_ft"])
@pytest.mark.parametrize("seed", [0, 2**62])
def test_on_a_real_model_of_many_sites(
    name: str, seed: int, micro: OpenClip, micro_model: nn.Module, tmp_path: Path
) -> None:
    targets = micro.targets_of(micro_model)
    real = save_adapter(tmp_path / "adapter", METHODS[name].apply(micro_model, targets, seed=seed))
    predicted = saved_bytes(METHODS[name], targets)
    assert 0 <= predicted - real < 1024 + 64 * (len(targets.parameters) if name == "full_ft" else 0)
    overhead = overhead_bytes(METHODS[name], targets)
    assert predicted == 4 * METHODS[name].count(targets) + overhead
    assert name == "full_ft" or overhead < 16 * 1024


@pytest.mark.parametrize("name", [name for name, method in ADAPTER_METHODS.items() if method.size_field is not None])
def test_the_largest_size_has_the_largest_header(name: str) -> None:
    """A budget of bytes takes the header at the largest size and must not be passed at any other."""
    targets = targets_of(Tiny())
    method = fitted(ADAPTER_METHODS[name])
    largest = method.largest_size(targets)
    headers = [overhead_bytes(method.resized(size), targets) for size in {1, 2, largest // 2, largest}]
    assert max(headers) == overhead_bytes(method.resized(largest), targets)


def test_a_frozen_model_saves_a_header_alone() -> None:
    targets = targets_of(Tiny())
    assert saved_bytes(METHODS["zero_shot"], targets) < 1024
    assert saved_bytes(METHODS["zero_shot"], dataclasses.replace(targets, sites=())) < 1024
