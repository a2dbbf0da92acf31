"""Adapters to peft's files and back: the same outputs, and refusals that name the site."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import METHODS
from peft_cases import FITTING
from safetensors.torch import load_file, save_file
from tiny_models import LINEAR_SITES, Tiny, adapt, inputs, perturb, targets_of
from torch import nn

from randlora.adapter import AdapterMethod, Targets
from randlora.imported_bases import ImportedBases, imported_bases
from randlora.inject import Adaptation
from randlora.methods.peft_bridge import Peft
from randlora.methods.randlora import RandLoRA
from randlora.peft_format import PeftFormatError, export_to_peft, import_from_peft
from randlora.peft_types import load_peft
from randlora.sites import find_sites
from randlora.storage import load_adapter, save_adapter

peft = load_peft()
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
CLOSE = 1e-6  # of outputs whose largest values are 1 to 3


def randlora(**changes: Any) -> RandLoRA:
    return dataclasses.replace(METHODS["randlora_peft"], **{"rank": 5, "alpha": 10.0, **changes})


def of(name: str, **changes: Any) -> AdapterMethod:
    return dataclasses.replace(METHODS[name], **changes)


EXPORTED: dict[str, AdapterMethod] = {
    "lora": of("lora", rank=3),
    "lora of constant scale": of("lora", rank=3, alpha=0.7, scale_rule="constant"),
    "rslora": of("rslora", rank=3, alpha=2.0),
    "dora": of("dora", rank=3),
    "dora rank-stabilised": of("dora", rank=3, scale_rule="over_sqrt_rank"),
    "vera": of("vera", rank=6, alpha=3.0),
    "vera_peft": of("vera_peft", rank=6),
    "randlora_peft": randlora(),
    "randlora of ternary bases": randlora(distribution="ternary", rank=4),
    "randlora with a scale by site": randlora(alpha=2.0, scale_rule="over_sqrt_bases"),
    "randlora of whole bases": randlora(basis_count="floor", rank=4),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        yield


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs().to(next(model.parameters()).dtype))


def ours(method: AdapterMethod, *patterns: str) -> Adaptation:
    model = Tiny().eval()
    adaptation = method.apply(model, targets_of(model, patterns or LINEAR_SITES), seed=5)
    # sums of many random bases: updates as large as the weights, and no larger
    perturb(adaptation, std=0.03 if isinstance(method, RandLoRA) else 0.3)
    return adaptation


def through_peft(folder: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(Tiny().eval(), str(folder))


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).abs().max()) <= CLOSE * max(1.0, float(expected.abs().max()))
    assert float((expected - outputs(Tiny().eval())).abs().max()) > 1e-2


@pytest.mark.parametrize("name", EXPORTED)
def test_peft_computes_the_same(name: str, tmp_path: Path) -> None:
    adaptation = ours(EXPORTED[name])
    assert {site.short for site in adaptation.sites} == {8, 12}
    done = export_to_peft(adaptation, tmp_path)
    theirs = through_peft(tmp_path)
    assert_same(outputs(theirs), outputs(adaptation.model))
    trained = sum(p.numel() for n, p in theirs.named_parameters() if "_lambda" in n or "_gamma" in n or "lora_" in n)
    assert done.trained == adaptation.n_trainable() == trained
    assert done.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert sorted(file.name for file in tmp_path.iterdir()) == [CONFIG, TENSORS]


@pytest.mark.parametrize("name", EXPORTED)
def test_what_was_exported_comes_back(name: str, tmp_path: Path) -> None:
    adaptation = ours(EXPORTED[name])
    export_to_peft(adaptation, tmp_path)
    back = import_from_peft(tmp_path, Tiny().eval())
    assert type(back.method) is type(adaptation.method)
    assert back.sites == adaptation.sites
    assert_same(outputs(back.model), outputs(adaptation.model))


CONFIGS: dict[str, Any] = {
    "lora": lambda where: peft.LoraConfig(r=3, lora_alpha=5, target_modules=where),
    "rslora": lambda where: peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=where),
    "dora": lambda where: peft.LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=where),
    "vera": lambda where: peft.VeraConfig(r=6, target_modules=where),
    "vera without bases": lambda where: peft.VeraConfig(r=6, save_projection=False, target_modules=where),
    "randlora": lambda where: peft.RandLoraConfig(r=5, randlora_alpha=20, target_modules=where),
    "randlora without bases": lambda where: peft.RandLoraConfig(
        r=5, randlora_alpha=20, save_projection=False, projection_prng_key=77, target_modules=where
    ),
    "sparse randlora without bases": lambda where: peft.RandLoraConfig(
        r=5, randlora_alpha=20, sparse=True, save_projection=False, target_modules=where
    ),
}


@cache
def written(name: str) -> tuple[dict[str, bytes], torch.Tensor]:
    """Return the two files that peft writes of an adapter, and the adapter's outputs."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        config = CONFIGS[name]([site.partition(".")[0] for site in LINEAR_SITES])
        model = peft.get_peft_model(Tiny().eval(), config).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += (0.03 if "randlora" in name else 0.3) * torch.randn_like(parameter)
        model.save_pretrained(folder)
        return {file: (Path(folder) / file).read_bytes() for file in (CONFIG, TENSORS)}, outputs(model)


def theirs(name: str, folder: Path) -> torch.Tensor:
    """Put an adapter that peft has written into a folder and return its outputs."""
    files, expected = written(name)
    folder.mkdir(exist_ok=True)
    for file, blob in files.items():
        (folder / file).write_bytes(blob)
    return expected


@pytest.mark.parametrize("name", CONFIGS)
def test_what_peft_has_written_is_read(name: str, tmp_path: Path) -> None:
    expected = theirs(name, tmp_path)
    adaptation = import_from_peft(tmp_path, Tiny().eval())
    assert_same(outputs(adaptation.model), expected)
    assert [site.name for site in adaptation.sites] == sorted(
        LINEAR_SITES, key=list(dict(Tiny().named_parameters())).index
    )
    before = outputs(adaptation.model)
    assert_same(outputs(adaptation.merge()), before)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_adapter_goes_through_our_own_file(name: str, tmp_path: Path) -> None:
    theirs(name, tmp_path)
    adaptation = import_from_peft(tmp_path, Tiny().eval())
    save_adapter(tmp_path / "own", adaptation)
    again, _ = load_adapter(tmp_path / "own", Tiny().eval())
    assert torch.equal(outputs(again.model), outputs(adaptation.model))
    kept = {key for key in load_file(tmp_path / "own") if key.startswith("bases/")}
    assert kept == {f"bases/{key}" for key in imported_bases(adaptation)}
    assert bool(kept) == ("vera" in name or "randlora" in name)
    save_adapter(tmp_path / "twice", again)
    assert (tmp_path / "twice").read_bytes() == (tmp_path / "own").read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_adapter_goes_back_to_peft(name: str, tmp_path: Path) -> None:
    expected = theirs(name, tmp_path / "theirs")
    export_to_peft(import_from_peft(tmp_path / "theirs", Tiny().eval()), tmp_path / "back")
    assert_same(outputs(through_peft(tmp_path / "back")), expected)


@pytest.mark.parametrize("name", ["vera", "randlora"])
def test_imported_bases_are_kept_once_and_frozen(name: str, tmp_path: Path) -> None:
    theirs(name, tmp_path)
    adaptation = import_from_peft(tmp_path, Tiny().double().eval())
    holders = {id(m) for a in adaptation.adapters.values() for m in a.modules() if isinstance(m, ImportedBases)}
    assert len(holders) == 1
    watched = dict(adaptation.frozen())
    assert {id(tensor) for tensor in imported_bases(adaptation).values()} <= {id(tensor) for tensor in watched.values()}
    assert all(tensor.dtype == torch.float64 for tensor in imported_bases(adaptation).values())


@pytest.mark.parametrize("name", ["randlora_peft", "vera"])
def test_bases_are_written_once(name: str, tmp_path: Path) -> None:
    adaptation = ours(EXPORTED[name])
    done = export_to_peft(adaptation, tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    bases = [key for key in tensors if key.endswith(("_A", "_B"))]
    assert len(bases) == 2
    assert done.bases == sum(tensors[key].numel() for key in bases)
    assert sum(tensor.numel() for tensor in tensors.values()) == done.bases + done.trained


@pytest.mark.parametrize("rank", [4, 12])
def test_basis_major_is_exported_where_all_sites_have_as_many_bases(rank: int, tmp_path: Path) -> None:
    sites = ("wide.weight", "square.weight", "conv.weight", "back.weight")
    adaptation = ours(randlora(stacking="basis_major", rank=rank), *sites)
    export_to_peft(adaptation, tmp_path)
    assert_same(outputs(through_peft(tmp_path)), outputs(adaptation.model))


def test_basis_major_of_several_counts_is_refused_with_both_sites(tmp_path: Path) -> None:
    message = r"site 'tall.weight' has 2 bases and 'wide.weight' 3; .*train with method=randlora_peft or .*rank_major"
    with pytest.raises(PeftFormatError, match=message):
        export_to_peft(ours(randlora(stacking="basis_major")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_number_of_bases_is_refused_by_site(tmp_path: Path) -> None:
    message = r"site 'tall.weight' has 1 bases of rank 5, where peft always has 2; train with method=randlora_peft or"
    with pytest.raises(PeftFormatError, match=message):
        export_to_peft(ours(randlora(basis_count="floor")), tmp_path)


def test_fused_attention_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PeftFormatError, match=r"cannot adapt site 'attention.in_proj_weight': its attention reads"):
        export_to_peft(adapt(METHODS["lora"]), tmp_path)
    with pytest.raises(PeftFormatError, match=r"cannot adapt site 'attention.out_proj.weight'"):
        export_to_peft(ours(of("lora", rank=3), "attention.out_proj.weight"), tmp_path)


@pytest.mark.parametrize("name", ["nola", "kradapter", "full_ft", "zero_shot"])
def test_what_peft_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PeftFormatError, match=r"peft has no form of \w+; LoRA, DoRA, VeRA, RandLoRA and Peft can be"):
        export_to_peft(adapt(METHODS[name], patterns=LINEAR_SITES), tmp_path)


def test_variants_and_merged_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PeftFormatError, match=r"no form of RandLoRA with composition 'product_of_sums'"):
        export_to_peft(ours(randlora(composition="product_of_sums")), tmp_path)
    adaptation = ours(of("lora", rank=3))
    adaptation.merge()
    with pytest.raises(PeftFormatError, match="holds no adapters any more; export before merging"):
        export_to_peft(adaptation, tmp_path)


@pytest.mark.parametrize("peft_type", ["LORA", "VERA", "FOURIERFT", "VBLORA", "SHIRA", "OFT"])
def test_layers_of_the_bridge_are_exported_by_peft(peft_type: str, tmp_path: Path) -> None:
    model = Tiny().eval()
    method = Peft(peft_type=peft_type, size=None, options=FITTING.get(peft_type))
    adaptation = method.apply(model, targets_of(model, LINEAR_SITES[:3]), seed=5)
    perturb(adaptation, std=0.1)
    expected = outputs(model)
    done = export_to_peft(adaptation, tmp_path)
    assert done.peft_type == peft_type
    assert_same(outputs(through_peft(tmp_path)), expected)


def test_a_name_that_ends_like_another_is_exported_alone(tmp_path: Path) -> None:
    def base() -> nn.ModuleDict:
        torch.manual_seed(0)
        return nn.ModuleDict({"up": nn.Linear(4, 6), "block": nn.ModuleDict({"up": nn.Linear(4, 6)})})

    with torch.random.fork_rng(devices=[]):
        model = base()
        sites = tuple(site for site in find_sites(model, ["up.weight"]) if site.name == "up.weight")
        adaptation = of("lora", rank=2).apply(model, Targets(sites=sites), seed=1)
        perturb(adaptation)
        export_to_peft(adaptation, tmp_path)
        loaded = peft.PeftModel.from_pretrained(base(), str(tmp_path)).base_model.model
        back = import_from_peft(tmp_path, base())
    x = torch.ones(1, 4)
    assert type(loaded["block"]["up"]) is nn.Linear
    assert float((loaded["up"](x) - model["up"](x)).abs().max()) < CLOSE
    assert back.sites == sites


def changed(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, r"peft_type LOHA cannot be imported; valid: LORA, VERA, RANDLORA"),
        ({"peft_type": None}, r"peft_type None cannot be imported"),
        ({"rank_pattern": {"tall": 2}}, r"rank_pattern = .* of this LORA adapter has no counterpart here"),
        ({"modules_to_save": ["top"]}, r"modules_to_save = \['top'\] of this LORA adapter"),
        ({"bias": "all"}, r"bias = 'all': the adapter brings biases"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights = 'pissa': the adapter belongs to base weights"),
        ({"use_dora": True}, r"the file lacks 'lora_magnitude_vector' of '\w+.weight', unlike its configuration"),
        ({"r": 2}, r"'lora_A.weight' of '\w+.weight' is \[3, \d+\], which does not fit rank and shape"),
        ({"r": 9}, r"LoRA: rank 9 does not fit site 'tall.weight'"),
    ],
)
def test_a_configuration_that_is_not_ours_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    theirs("lora", tmp_path)
    changed(tmp_path, **changes)
    model = Tiny()
    with pytest.raises(PeftFormatError, match=message):
        import_from_peft(tmp_path, model)
    assert {type(module) for module in model.modules()} == {type(module) for module in Tiny().modules()}


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    theirs("lora", tmp_path)
    with pytest.raises(PeftFormatError, match=r"belongs to another model: target '\w+.weight' matched none"):
        import_from_peft(tmp_path, nn.ModuleDict({"other": nn.Linear(3, 3)}))
    wider = Tiny()
    wider.square = nn.Linear(12, 13)
    with pytest.raises(PeftFormatError, match=r"'lora_B.weight' of 'square.weight' is \[12, 3\], which does not fit"):
        import_from_peft(tmp_path, wider)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(PeftFormatError, match=r"adapter_config.json cannot be read as peft's configuration"):
        import_from_peft(tmp_path, Tiny())
    theirs("lora", tmp_path)
    (tmp_path / TENSORS).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(PeftFormatError, match=r"adapter_model.safetensors cannot be read: .*; only safetensors"):
        import_from_peft(tmp_path, Tiny())
    save_file({"base_model.model.tall.lora_E": torch.zeros(2)}, tmp_path / TENSORS)
    with pytest.raises(PeftFormatError, match=r"'base_model.model.tall.lora_E' is no tensor of a LORA adapter"):
        import_from_peft(tmp_path, Tiny())
    save_file({}, tmp_path / TENSORS)
    with pytest.raises(PeftFormatError, match=r"the file holds no tensor of a LORA adapter"):
        import_from_peft(tmp_path, Tiny())
    (tmp_path / CONFIG).write_text("[]")
    with pytest.raises(PeftFormatError, match=r"is not peft's configuration: it states no peft_type"):
        import_from_peft(tmp_path, Tiny())


def test_bases_that_are_too_small_are_refused(tmp_path: Path) -> None:
    theirs("randlora", tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    cut = {key: one[:, :, :5].contiguous() if key.endswith("randlora_A") else one for key, one in tensors.items()}
    save_file(cut, tmp_path / TENSORS)
    with pytest.raises(
        PeftFormatError, match=r"the imported basis 'short' is \[5, 5\]; these sites need at least \[5, 12\]"
    ):
        import_from_peft(tmp_path, Tiny())
