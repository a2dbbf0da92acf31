"""Finding weights by name (contract 9), and what happens where there is nothing to adapt."""

from __future__ import annotations

import pytest
import torch
from tiny_models import Tiny
from torch import nn

from randlora.adapter import Site
from randlora.sites import TargetError, find_sites


class Blocks(nn.Module):
    """Two blocks with the names of open_clip's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 4)
        self.words = nn.Embedding(10, 8)
        self.resblocks = nn.ModuleList(
            nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "mlp": nn.ModuleDict({"c_fc": nn.Linear(8, 32)})})
            for _ in range(2)
        )


def names(model: nn.Module, *patterns: str) -> list[str]:
    return [site.name for site in find_sites(model, patterns)]


def test_patterns_match_whole_names_or_their_ends() -> None:
    model = Blocks()
    assert names(model, "attn.in_proj_weight") == [f"resblocks.{i}.attn.in_proj_weight" for i in range(2)]
    assert names(model, "resblocks.1.*.in_proj_weight") == ["resblocks.1.attn.in_proj_weight"]
    assert names(model, "resblocks.?.mlp.c_fc.weight") == [f"resblocks.{i}.mlp.c_fc.weight" for i in range(2)]
    with pytest.raises(TargetError):
        names(model, "ttn.in_proj_weight")
    with pytest.raises(TargetError):
        names(model, "attn")


def test_sites_keep_the_order_of_the_model_and_are_found_once() -> None:
    model = Blocks()
    found = names(model, "c_fc.weight", "attn.in_proj_weight", "resblocks.0.mlp.c_fc.weight")
    assert found == [
        "resblocks.0.attn.in_proj_weight",
        "resblocks.0.mlp.c_fc.weight",
        "resblocks.1.attn.in_proj_weight",
        "resblocks.1.mlp.c_fc.weight",
    ]


def test_sites_carry_shape_and_layout() -> None:
    model = Tiny()
    assert find_sites(model, ["tall.weight", "conv.weight", "attention.*_weight", "out_proj.weight"]) == (
        Site(name="tall.weight", out_features=20, in_features=8),
        Site(name="attention.in_proj_weight", out_features=36, in_features=12, linear=False),
        Site(name="attention.out_proj.weight", out_features=12, in_features=12, linear=False),
        Site(name="conv.weight", out_features=18, in_features=12, transposed=True),
    )


def test_sides_of_a_site() -> None:
    site = Site(name="w", out_features=3, in_features=7)
    assert (site.short, site.long) == (3, 7)


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [("attn.in_proj", "attn.in_proj_weight"), ("mlp.fc.weight", "c_fc.weight"), ("q_proj", "attn.")],
)
def test_a_pattern_without_match_suggests_near_names(pattern: str, nearest: str) -> None:
    with pytest.raises(TargetError) as error:
        find_sites(Blocks(), ["attn.in_proj_weight", pattern], model_name="blocks")
    text = str(error.value)
    assert f"target '{pattern}' matched none of the 6 weights of blocks; nearest: " in text
    assert nearest in text


@pytest.mark.parametrize("name", ["conv1.weight", "words.weight", "resblocks.0.attn.in_proj_bias"])
def test_a_parameter_that_cannot_be_adapted_is_explained(name: str) -> None:
    with pytest.raises(TargetError, match=f"target '{name}' matches '{name}' of blocks, which is no weight matrix"):
        find_sites(Blocks(), [name], model_name="blocks")


def test_one_matrix_under_two_names_is_targeted_once() -> None:
    model = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)})
    model["two"].weight = model["one"].weight
    with pytest.raises(TargetError, match=r"'one.weight' and 'two.weight' of the model are one tied weight"):
        find_sites(model, ["*.weight"])
    assert names(model, "two.weight") == ["two.weight"]


def test_one_module_under_two_names_is_targeted_once() -> None:
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict({"one": layer, "two": layer})
    with pytest.raises(TargetError, match="one tied weight"):
        find_sites(model, ["*.weight"])
    assert names(model, "two.weight") == ["two.weight"]


def test_attention_with_separate_projections_has_no_fused_weight() -> None:
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2, kdim=4, vdim=4)})
    with pytest.raises(TargetError, match="matched none of the 1 weights"):
        find_sites(model, ["in_proj_weight"])


def test_sites_of_a_model_without_weights() -> None:
    with torch.device("meta"):
        assert names(Blocks(), "c_fc.weight") == [f"resblocks.{i}.mlp.c_fc.weight" for i in range(2)]
    with pytest.raises(TargetError, match="matched none of the 0 weights"):
        find_sites(nn.ReLU(), ["c_fc.weight"])
