"""docs/PEFT.md says of every type of peft what the code finds."""

from __future__ import annotations

import re

import pytest
from configs import ROOT
from peft_cases import NOT_INSTALLED, adapted, method_of, targets
from tiny_models import Tiny

from randlora.adapter import Site, Targets
from randlora.inject import fingerprint
from randlora.peft_types import NEARLY_AT_BASE, REFUSED, UNMET, load_peft, size_option, valid_types

PAGE = (ROOT / "docs" / "PEFT.md").read_text(encoding="utf-8")
CONV1D = Targets(sites=(Site(name="conv.weight", out_features=20, in_features=12, transposed=True),))


def start(name: str) -> str:
    if method_of(name).starts_at_base:
        return "at the base"
    return "at the base but for rounding" if name in NEARLY_AT_BASE else "elsewhere"


def takes_conv1d(name: str) -> bool:
    try:
        return method_of(name).count(CONV1D) > 0
    except ValueError:
        return False


def grows_from(name: str) -> str:
    """Return what decides the frozen numbers that a type adds and does not save."""
    frozen = fingerprint(adapted(name).regrown())
    if not frozen:
        return ""
    model = Tiny().eval()
    for layer in (model.tall, model.wide, model.square):
        layer.weight.data.mul_(1.5).add_(0.1)
    other_base = fingerprint(method_of(name).apply(model, targets(model), seed=5).regrown())
    by_seed, by_base = fingerprint(adapted(name, seed=6).regrown()) != frozen, other_base != frozen
    return {(True, False): "seed", (False, True): "weights", (True, True): "seed and weights"}.get(
        (by_seed, by_base), "constants"
    )


def row(name: str) -> str:
    if name in NOT_INSTALLED:
        return f"| `{name}` | not tried: needs {NOT_INSTALLED[name]} | | | |"
    conv1d = "yes" if takes_conv1d(name) else "no"
    size = f"`{option}`" if (option := size_option(name)) else ""
    return re.sub(r" +", " ", f"| `{name}` | {conv1d} | {start(name)} | {size} | {grows_from(name)} |")


@pytest.mark.parametrize("name", valid_types())
def test_the_page_says_what_a_type_does(name: str) -> None:
    assert row(name) in PAGE.splitlines()


def test_the_page_lists_no_other_type() -> None:
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted({*valid_types(), *REFUSED})


@pytest.mark.parametrize("name", REFUSED)
def test_the_page_gives_the_reason_of_a_refusal(name: str) -> None:
    assert f"| `{name}` | {REFUSED[name]} |" in PAGE


def test_the_page_names_the_options_that_are_refused() -> None:
    assert all(f"`{name}`" in PAGE for name in UNMET)


def test_the_page_names_the_version_it_was_written_for() -> None:
    assert f"peft {load_peft().__version__}" in PAGE
