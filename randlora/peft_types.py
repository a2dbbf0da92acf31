"""Which methods of peft adapt the weights of linear layers, and their configurations."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from randlora.adapter import Site
from randlora.backbones.torchvision_guard import import_torchvision
from randlora.seeds import seed_for

# types that change more or other than the weights of linear layers, or that need more than a forward pass
REFUSED: Mapping[str, str] = {
    "ADALORA": "it moves ranks between layers during training, by a call after each step that the trainer does not "
    "make; without it, it is LORA with three factors",
    "ADAPTION_PROMPT": "it adds prompts inside the attention of Llama-like models and adapts no weight",
    "LILY": "peft cannot merge it into the weights",
    "LN_TUNING": "it trains whole modules, meant for layer norms; on linear layers that is method=full_ft with "
    "backbone.scope set to them",
    "POLY": "it mixes adapters by a task number that every forward pass would have to be given",
    "SHADOW": "it wraps the decoder blocks of a language model, not weight matrices",
    "TRAINABLE_TOKENS": "it trains rows of an embedding, not the weights of linear layers",
    "XLORA": "it mixes LoRA adapters that were trained before and are loaded from files",
}
# types that start at the base but for rounding: at an identity that is a product, or at a weight taken apart
NEARLY_AT_BASE = frozenset({"BOFT", "DEFT", "FROD", "HRA", "OSF", "PSOFT"})
# options that set the number of trained parameters and may be any whole number from 1; other types that have `r` use it
SIZES: Mapping[str, str | None] = {
    "FOURIERFT": "n_frequency",
    "GRALORA": None,  # r must be a multiple of gralora_k
    "OFT": None,  # r excludes oft_block_size and must divide the layer's width
    "SUPERTUNING": None,  # trains a share of the weights beside the r
    "TINYLORA": "u",
    "UNILORA": "theta_d_length",
    "WAVEFT": "n_frequency",
}
# what the suite sets: which weights are adapted is the backbone's choice
MANAGED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layer_replication",
        "layers_pattern",
        "layers_to_transform",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "save_projection",
        "target_modules",
        "target_parameters",
        "task_type",
        "trainable_token_indices",
    }
)
# options that need more than a forward and a backward pass on the batch
UNMET: Mapping[str, str] = {
    "alora_invocation_tokens": "the token ids of each input",
    "arrow_config": "adapters trained before",
    "corda_config": "data for its start",
    "eva_config": "data for its start",
    "kasa_config": "a term of its own in the loss",
    "loftq_config": "quantised base weights",
    "lora_ga_config": "data for its start",
    "monteclora_config": "a term of its own in the loss",
    "velora_config": "data for its frozen numbers",
}
# seeds of frozen random tensors; grown from the run's seed unless given
SEEDS = ("projection_prng_key", "projection_seed", "proj_seed", "random_loc_seed", "random_seed")
# where peft's default is a progress bar, or a lookup by the name of a language model
PRESET: Mapping[str, Any] = {"progressbar": False, "feedforward_modules": []}
# starts that rewrite the base weights, or need data
REWRITING = ("pissa", "olora", "corda", "eva", "loftq", "lora_ga")


@cache
def load_peft() -> ModuleType:
    """Import peft; it takes a second, so nothing imports it before it is needed.

    Raises:
        ValueError: if it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError("the package peft is not installed: pip install 'randlora[peft]'")
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    return importlib.import_module("peft")


def valid_types() -> list[str]:
    """Return the types that adapt the weights of linear layers, by name."""
    return sorted(name for name in _configs() if why_refused(name) is None)


def why_refused(peft_type: str) -> str | None:
    """Return why a type of peft has no place here, or None."""
    if issubclass(_configs()[peft_type], load_peft().PromptLearningConfig):
        return "it is prompt learning: it puts trained vectors before the input and adapts no weight"
    return REFUSED.get(peft_type)


def check_type(peft_type: object) -> None:
    """Raise ValueError unless the type adapts the weights of linear layers."""
    if peft_type not in _configs():
        near = difflib.get_close_matches(str(peft_type).upper(), _configs(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"peft_type = {peft_type!r}; {hint}valid: {', '.join(valid_types())}")
    if reason := why_refused(str(peft_type)):
        raise ValueError(f"peft_type = {peft_type!r} cannot be used: {reason}; valid: {', '.join(valid_types())}")


def check_options(peft_type: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the type does not have, that the suite sets, or that changes base weights."""
    names = option_names(peft_type)
    for name, value in options.items():
        if name in MANAGED:
            raise ValueError(
                f"options.{name} is set by the suite (backbone.targets says which weights are adapted); "
                f"{peft_type} has: {', '.join(names)}"
            )
        if name in UNMET:
            raise ValueError(
                f"options.{name} needs {UNMET[name]}, which there is not; {peft_type} has: {', '.join(names)}"
            )
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{peft_type} has no option {name!r}; {hint}it has: {', '.join(names)}")
        if name == "bias" and value != "none":
            raise ValueError(f"options.bias = {value!r} trains the model's own biases; valid: none")
        if name.startswith("init_") and isinstance(value, str) and value.startswith(REWRITING):
            raise ValueError(
                f"options.{name} = {value!r} rewrites the base weights or needs data; the base stays as it is here"
            )


def option_names(peft_type: str) -> list[str]:
    """Return the options of a type, in peft's order."""
    fields = dataclasses.fields(_configs()[peft_type])
    return [field.name for field in fields if field.name not in MANAGED and field.name not in UNMET]


def size_option(peft_type: str) -> str | None:
    """Return the option that sets the number of trained parameters and may be any whole number from 1, or None."""
    if peft_type in SIZES:
        return SIZES[peft_type]
    return "r" if "r" in option_names(peft_type) else None


def build_config(peft_type: str, options: Mapping[str, Any], modules: Sequence[str], *, seed: int) -> Any:
    """Return the configuration that adapts the named modules and no other, with peft's defaults for all else.

    Raises:
        ValueError: if peft refuses the options.
    """
    cls = _configs()[peft_type]
    names = {field.name for field in dataclasses.fields(cls)}
    seeds = {name: seed_for(seed, "bases") % 2**31 for name in SEEDS if name in names}
    preset = {name: value for name, value in PRESET.items() if name in names}
    try:
        return cls(**{**preset, **seeds, **options, "target_modules": target_pattern(modules)})
    except ImportError as error:
        raise ValueError(f"{peft_type} needs a package that is not installed: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"peft refuses these options of {peft_type}: {error}") from error


def target_pattern(modules: Sequence[str]) -> str:
    """Return a pattern that these names alone match; peft takes a plain name for the end of longer names as well."""
    return "|".join(re.escape(module) for module in modules)


def module_of(site: Site) -> str:
    """Return the name of the module that owns a site's weight.

    Raises:
        ValueError: naming the site, if it is no linear layer or Conv1D that computes with its weight itself.
    """
    module, _, tensor = site.name.rpartition(".")
    if not site.linear or tensor != "weight" or not module:
        raise ValueError(
            f"peft cannot adapt site '{site.name}': its attention reads the weight directly and calls no linear layer; "
            "target only the weights of linear layers, for CLIP those of the MLP: "
            "backbone.targets=[mlp.c_fc.weight,mlp.c_proj.weight]"
        )
    return module


@cache
def _configs() -> dict[str, type[Any]]:
    load_peft()
    mapping = importlib.import_module("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING
    return {peft_type.value: cls for peft_type, cls in mapping.items()}
