"""Audits: every method passes on a real model, every fault is found and named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from configs import ADAPTER_METHODS, METHODS
from faulty_methods import SITE, Faulty
from small_clip import CHECKS, adaptable, look
from tiny_models import Tiny, fitted, inputs, targets_of
from torch import Tensor, nn

from randlora.audit import result_checks
from randlora.audit.contract import audit, failures
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import Adaptation

LORA = dataclasses.replace(ADAPTER_METHODS["lora"], rank=3)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract_on_a_clip(name: str) -> None:
    method = fitted(METHODS[name])
    found = look(method)
    assert list(found) == CHECKS
    assert not failures(list(found.values()))
    silent = {check for check, one in found.items() if one.passed is None}
    if name not in ADAPTER_METHODS:
        assert silent >= {"bases_kept_once", "forms_agree", "gradients_exact", "update_rank"}
        assert ("merged_as_adapted" in silent) == ("grown_from_seed" in silent) == (not method.adds_parameters)
        assert ("trainable_move" in silent) == (not method.trains_backbone)
    else:
        expected = {"starts_at_base": not method.starts_at_base, "gradients_exact": not method.exact_gradient}
        assert silent <= {
            "bases_kept_once",
            "forms_agree",
            *(check for check, left_out in expected.items() if left_out),
        }
    assert all(one.detail for one in found.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract_on_every_kind_of_site(name: str) -> None:
    model = Tiny()
    method = fitted(METHODS[name])
    found = audit(model, method, adaptable(method, targets_of(model)), probe=lambda: model(inputs()))
    assert not failures(found)


@pytest.mark.parametrize(
    "precision", ["bfloat16 weights", "bfloat16 autocast", "float64 weights", "rebuilt and compact"]
)
@pytest.mark.parametrize("name", ["lora", "randlora", "randlora_ternary_6", "nola", "dora", "full_ft"])
def test_other_precisions_and_executions_pass(name: str, precision: str) -> None:
    dtype = {"bfloat16 weights": torch.bfloat16, "float64 weights": torch.float64}.get(precision, torch.float32)
    model = Tiny().to(dtype)
    found = audit(
        model,
        fitted(METHODS[name]),
        targets_of(model),
        probe=lambda: model(inputs(dtype=dtype)),
        autocast=torch.bfloat16 if precision == "bfloat16 autocast" else None,
        execution=Execution(adapted_weights="rebuild", bases="compact")
        if "rebuilt" in precision
        else DEFAULT_EXECUTION,
    )
    assert not failures(found)


@pytest.mark.parametrize("name", ["lora", "randlora", "vera", "nola", "dora", "kradapter", "full_ft"])
def test_a_clip_starts_at_the_base_under_autocast_too(name: str) -> None:
    """open_clip looks at the dtype of a weight before it casts its texts to it."""
    found = look(fitted(METHODS[name]), autocast=torch.bfloat16)
    assert not failures(list(found.values()))
    assert found["starts_at_base"].passed is (True if METHODS[name].starts_at_base else None)


FAULTS: dict[str, tuple[str, str]] = {
    "writes to the base weight": ("frozen_unchanged", f"'{SITE}'"),
    "start from the global generator": ("grown_from_seed", f"'{SITE}:a'"),
    "moves the global generator": ("grown_from_seed", "moves the global random generator"),
    "wrong closed form": ("count_as_predicted", f"'{SITE}' trains 480 parameters, its closed form says 481"),
    "trains a norm as well": ("count_as_predicted", "'visual.ln_pre.weight' takes gradients but is not counted"),
    "another start": ("starts_at_base", f"'{SITE}' changes its weight by"),
    "a tensor without gradient": ("trainable_move", f"'{SITE}:unused'"),
    "changes in evaluation": ("evaluation_changes_nothing", f"'{SITE}:b'"),
    "a weight form of its own": ("forms_agree", f"'{SITE}': the forms differ by"),
    "wrong gradient": ("gradients_exact", f"'{SITE}': 'b' has slope"),
    "full rank": ("update_rank", f"'{SITE}', 128 x 32: 32, claimed 3"),
    "too low a rank": ("update_rank", f"'{SITE}', 128 x 32: 1, claimed 3"),
    "saves its basis": ("saves_trained_only", f"'{SITE}' keeps 'basis' in its state, 21 numbers"),
    "counts its basis": ("count_as_predicted", f"'{SITE}' trains 501 parameters, its closed form says 480"),
    "bases of its own": ("bases_kept_once", f"'{SITE}' holds frozen tensors of its own"),
    "a copy of the bases": ("bases_kept_once", f"'{SITE}' holds a copy of 'copy' of site"),
    "a merge that leaves something": ("merge_leaves_nothing", "left_behind"),
    "a merge of half the update": ("merged_as_adapted", "outputs differ by"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_its_site_is_named(fault: str) -> None:
    check, words = FAULTS[fault]
    # in weight form, where a faulty weight is in use on few tokens too
    found = look(Faulty(**vars(LORA) | {"contraction": "weight"}, fault=fault))
    assert found[check].passed is False
    assert words in found[check].detail


def test_lora_without_a_fault_passes() -> None:
    found = look(Faulty(**vars(LORA), fault="none"))
    assert not failures(list(found.values()))
    assert found["reloads_bitwise"].passed is None
    assert "Faulty is no class of randlora.methods" in found["reloads_bitwise"].detail


def test_a_merge_that_differs_names_the_first_site() -> None:
    linear = [SITE, "visual.transformer.resblocks.0.mlp.c_proj.weight"]
    for site in linear:
        method = Faulty(**vars(LORA) | {"contraction": "auto"}, fault="a weight form of its own", site=site)
        found = look(method)["merged_as_adapted"]
        assert found.passed is False
        assert f"the first site whose merge differs is '{site}'" in found.detail


def test_a_base_weight_that_stays_changed_is_reported() -> None:
    method = Faulty(**vars(LORA) | {"contraction": "weight"}, fault="writes to the base weight")
    found = look(method)["model_restored"]
    assert found.passed is False
    assert SITE in found.detail


def test_numbers_that_a_file_loses_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    load = result_checks.load_adapter

    def rounded(path: Path, model: nn.Module) -> tuple[Adaptation, dict[str, Tensor]]:
        adaptation, head = load(path, model)
        with torch.no_grad():
            for parameter in adaptation.trainable().values():
                parameter.copy_(parameter.half())
        return adaptation, head

    monkeypatch.setattr(result_checks, "load_adapter", rounded)
    found = look(LORA)["reloads_bitwise"]
    assert found.passed is False
    assert "after loading, allowed 0" in found.detail
