"""What peft cannot take is refused before the model is touched, by name and with what is valid."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_cases import NOT_INSTALLED, adapted, targets
from safetensors import safe_open
from safetensors.torch import load_file, save
from tiny_models import Tiny, perturb, targets_of
from torch import nn

from randlora.adapter import Site, Targets
from randlora.fitting import fit
from randlora.methods.peft_bridge import Peft
from randlora.peft_inject import PeftAdaptation
from randlora.peft_types import REFUSED, UNMET, load_peft, valid_types
from randlora.sites import find_sites
from randlora.storage import StorageError, load_adapter, save_adapter


def peft(peft_type: str, size: int | None = None, **options: Any) -> Peft:
    return Peft(peft_type=peft_type, size=size, options=options)


def test_a_wrong_type_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"peft_type = 'LORRA'; did you mean LORA\? valid: .*FOURIERFT.*LORA.*VERA"):
        peft("LORRA")
    with pytest.raises(ValueError, match=r"peft_type = 'lora'; did you mean LORA\?"):
        peft("lora")
    with pytest.raises(ValueError, match=r"peft_type = None; valid: "):
        Peft(peft_type=None, size=None, options=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"]
)
def test_prompt_learning_is_refused_with_why(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' cannot be used: it is prompt learning: it puts trained vectors"):
        peft(name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_adapts_no_linear_layer_is_refused_with_why(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' cannot be used: .{{20,}}; valid: ADAMSS, BEFT"):
        peft(name)


def test_every_type_of_peft_is_either_valid_or_refused() -> None:
    load_peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    prompts = {"CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"}
    everything = {one.value for one in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert everything == set(valid_types()) | set(REFUSED) | prompts


def test_a_wrong_option_lists_the_valid_ones() -> None:
    with pytest.raises(
        ValueError, match=r"FOURIERFT has no option 'n_freq'; did you mean n_frequency\? it has: n_frequency, scaling"
    ):
        peft("FOURIERFT", n_freq=3)


@pytest.mark.parametrize(
    "name", ["target_modules", "modules_to_save", "layers_to_transform", "inference_mode", "task_type"]
)
def test_what_the_suite_sets_is_no_option(name: str) -> None:
    with pytest.raises(ValueError, match=rf"options.{name} is set by the suite \(backbone.targets says"):
        peft("LORA", **{name: None})


@pytest.mark.parametrize("name", UNMET)
def test_an_option_that_needs_more_than_a_batch_is_refused_with_what(name: str) -> None:
    with pytest.raises(ValueError, match=rf"options.{name} needs {UNMET[name]}, which there is not; LORA has: r, "):
        peft("LORA", **{name: None})


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "eva", "loftq", "lora_ga"])
def test_a_start_that_rewrites_the_base_is_refused(start: str) -> None:
    with pytest.raises(
        ValueError, match=rf"options.init_lora_weights = '{start}' rewrites the base weights or needs data"
    ):
        peft("LORA", init_lora_weights=start)
    peft("LORA", init_lora_weights="gaussian")


def test_trained_biases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"options.bias = 'all' trains the model's own biases; valid: none"):
        peft("LORA", bias="all")
    assert peft("LORA", bias="none").count(targets()) == peft("LORA").count(targets())


@pytest.mark.parametrize("options", [3, "r=4", ["r"]])
def test_options_are_a_mapping(options: Any) -> None:
    with pytest.raises(ValueError, match=r"Peft.options = .*; valid: a mapping"):
        Peft(peft_type="LORA", size=None, options=options)


def test_what_peft_refuses_is_passed_on() -> None:
    with pytest.raises(ValueError, match=r"peft refuses these options of BOFT: .*boft_block_size.*boft_block_num"):
        peft("BOFT", boft_block_size=4, boft_block_num=2)
    with pytest.raises(ValueError, match=r"peft's LORA cannot adapt site 'tall.weight' \(Linear, 20 x 8\): .*positive"):
        peft("LORA", r=0).count(targets())
    with pytest.raises(ValueError, match=r"peft's C3A cannot adapt site 'tall.weight' .*block size should be a factor"):
        peft("C3A", block_size=7).count(targets())


def test_a_layer_that_a_type_cannot_take_is_named() -> None:
    both = targets_of(Tiny(), ("tall.weight", "conv.weight"))
    with pytest.raises(
        ValueError, match=r"peft's C3A cannot adapt site 'conv.weight' \(Conv1D, 18 x 12\): .*not supported"
    ):
        peft("C3A", block_size=4).count(both)
    assert peft("LORA").count(both) == 8 * (20 + 8 + 18 + 12)


def test_fused_attention_is_refused_by_name_before_anything_changes() -> None:
    model = Tiny()
    sites = targets_of(model)
    message = r"peft cannot adapt site 'attention.in_proj_weight': its attention reads the weight.*backbone.targets=\["
    with pytest.raises(ValueError, match=message):
        peft("LORA").count(sites)
    with pytest.raises(ValueError, match=message):
        peft("LORA").apply(model, sites, seed=1)
    assert {type(module) for module in model.modules()} == {type(module) for module in Tiny().modules()}
    assert all(parameter.requires_grad for parameter in model.parameters())
    projection = targets_of(model, ("attention.out_proj.weight",))
    with pytest.raises(ValueError, match=r"site 'attention.out_proj.weight': its attention reads"):
        peft("LORA").count(projection)


def test_a_model_that_cannot_be_adapted_is_named() -> None:
    model = Tiny()
    adaptation = peft("LORA").apply(model, targets(model), seed=1)
    with pytest.raises(ValueError, match=r"site 'tall.weight' has an adapter already"):
        peft("LORA").apply(model, Targets(sites=adaptation.sites), seed=1)
    with pytest.raises(ValueError, match="there is no site to adapt"):
        peft("LORA").count(Targets(sites=()))
    with torch.device("meta"):
        empty = Tiny()
    with pytest.raises(ValueError, match=r"site 'tall.weight' has no values yet \(meta device\)"):
        peft("LORA").apply(empty, targets(), seed=1)
    whole = nn.Sequential(nn.Linear(4, 4))
    whole[0].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"site '0.weight' holds torch.int8"):
        peft("LORA").apply(whole, Targets(sites=find_sites(whole, ["0.weight"])), seed=1)


def test_a_model_that_peft_refuses_midway_is_given_back() -> None:
    model = Tiny().double()
    with pytest.raises(ValueError, match=r"peft's PSOFT cannot adapt this model: PSOFT init requires float32"):
        peft("PSOFT", r=4).apply(model, targets(model), seed=1)
    assert {type(module) for module in model.modules()} == {type(module) for module in Tiny().modules()}
    assert peft("LORA").apply(model, targets(model), seed=1).n_trainable() > 0


def test_a_name_that_ends_like_another_is_adapted_alone() -> None:
    model = nn.ModuleDict({"up": nn.Linear(4, 6), "block": nn.ModuleDict({"up": nn.Linear(4, 6)})})
    sites = tuple(site for site in find_sites(model, ["up.weight"]) if site.name == "up.weight")
    adaptation = peft("LORA").apply(model, Targets(sites=sites), seed=1)
    assert adaptation.n_trainable() == 8 * 10
    assert type(model.get_submodule("block.up")) is nn.Linear


@pytest.mark.parametrize("name", NOT_INSTALLED)
def test_a_type_that_needs_a_further_package_says_so(name: str) -> None:
    if importlib.util.find_spec("sklearn") is not None:
        pytest.skip("scikit-learn is here")
    with pytest.raises(ValueError, match=f"{name} needs a package that is not installed: {NOT_INSTALLED[name]}"):
        peft(name)


def test_sizes() -> None:
    assert peft("LORA", size=3) != peft("LORA", size=4)
    assert peft("LORA", size=3).count(targets()) == peft("LORA", r=3).count(targets())
    with pytest.raises(ValueError, match=r"Peft.size = 3 and options.r are the same thing"):
        peft("LORA", size=3, r=3)
    with pytest.raises(ValueError, match=r"Peft.size = 3: IA3 has no option that any whole number fits"):
        peft("IA3", size=3)
    with pytest.raises(ValueError, match=r"Peft.size = 0; valid: a whole number of 1 or more"):
        peft("LORA", size=0)


SIZED = [name for name in valid_types() if name not in NOT_INSTALLED and peft(name).size_field is not None]
TAME = {"VBLORA": {"num_vectors": 10, "vector_length": 4}}  # its defaults fit no layer of the tiny model


@pytest.mark.parametrize("name", SIZED)
def test_every_size_up_to_the_largest_fits_and_a_budget_finds_one(name: str) -> None:
    method, sites = peft(name, **TAME.get(name, {})), targets()
    largest = method.largest_size(sites)
    sizes = range(1, largest + 1) if largest < 30 else (1, 2, 3, 5, largest - 1, largest)
    counts = [method.resized(size).count(sites) for size in sizes]
    assert len(set(counts)) > 1
    asked = sorted(counts)[len(counts) // 2]
    solution = fit(method, sites, asked=asked)
    assert solution.reached == solution.method.count(sites) == asked


def test_types_without_a_size_keep_what_they_train() -> None:
    method = peft("IA3")
    assert method.size_field is None
    solution = fit(method, targets(), asked=10)
    assert (solution.method, solution.note) == (method, "Peft has no size to match a budget with")


def test_layers_of_one_shape_are_counted_once_and_shared_tensors_too() -> None:
    sites = tuple(Site(name=f"blocks.{i}.up.weight", out_features=24, in_features=16) for i in range(40))
    assert peft("LORA").count(Targets(sites=sites)) == 40 * 8 * (24 + 16)
    assert peft("UNILORA").count(Targets(sites=sites)) == 256
    assert peft("LORA").tensor_names(Targets(sites=sites))[-1] == "blocks.39.up.lora_B.default.weight"
    tied = peft("TINYLORA", weight_tying=1.0)
    assert tied.count(Targets(sites=sites)) == tied.count(Targets(sites=sites[:1]))


def test_methods_compare_and_do_not_share_their_options() -> None:
    options: dict[str, Any] = {"rank_pattern": {"tall": 2}}
    one, other = peft("LORA", **options), peft("LORA", rank_pattern={"tall": 2})
    options["rank_pattern"]["tall"] = 3
    assert one == other
    assert hash(one) == hash(other)
    assert one != peft("LORA", rank_pattern={"tall": 3})
    assert json.loads(json.dumps(one.to_config()))["options"] == {"rank_pattern": {"tall": 2}}


def described(path: Path, **changes: Any) -> None:
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["adapter"])
    path.write_bytes(save(load_file(path), {"adapter": json.dumps({**description, **changes})}))


def test_frozen_numbers_that_come_out_otherwise_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    adaptation = adapted("TINYLORA")  # its frozen numbers come from the base weights
    perturb(adaptation)
    save_adapter(path, adaptation)
    assert isinstance(load_adapter(path, Tiny())[0], PeftAdaptation)
    other = Tiny()
    with torch.no_grad():
        other.tall.weight.mul_(1.5).add_(0.1)
    with pytest.raises(
        StorageError, match=r"adapter: the frozen numbers that peft grows .* are not those of the training"
    ):
        load_adapter(path, other)
    assert type(other.tall) is nn.Linear
    described(path, seed=77)
    with pytest.raises(StorageError, match="are not those of the training"):
        load_adapter(path, Tiny())


def test_a_file_of_other_layers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    save_adapter(path, adapted("LORA"))
    described(path, method=peft("LORA", r=2).to_config())
    with pytest.raises(
        StorageError, match=r"'square.lora_A.default.weight' is \[8, 12\] in the file and \[2, 12\] in peft's"
    ):
        load_adapter(path, Tiny())
    described(path, method=peft("LORA", use_dora=True).to_config())
    with pytest.raises(
        StorageError, match=r"lora_magnitude_vector.default.weight' is not in the file and \[12\] in peft's"
    ):
        load_adapter(path, Tiny())


def test_a_merged_model_has_no_adapter_to_save(tmp_path: Path) -> None:
    adaptation = adapted("LORA")
    adaptation.merge()
    with pytest.raises(StorageError, match="holds no adapters any more; save before merging"):
        save_adapter(tmp_path / "late", adaptation)
