"""Adapters that peft has written, as adapters of our own methods."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from glob import escape
from typing import Any

import torch
from torch import Tensor, nn

from randlora.adapter import AdapterMethod, Site
from randlora.imported_bases import put_bases
from randlora.inject import Adaptation, inject
from randlora.methods.dora import DoRA
from randlora.methods.lora import LoRA
from randlora.methods.randlora import RandLoRA
from randlora.methods.vera import VeRA
from randlora.peft_errors import PeftFormatError
from randlora.peft_layers import ADAPTER
from randlora.peft_types import REWRITING, load_peft
from randlora.sites import TargetError, find_sites

# settings that change what an adapter computes and that our methods do not have
FOREIGN = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# peft's names of a layer's tensors; ours, and how they are stored
NAMES: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "LORA": {
        "lora_A.weight": ("a", False),
        "lora_B.weight": ("b", False),
        "lora_magnitude_vector": ("magnitude", False),
    },
    "VERA": {"vera_lambda_b": ("b", False), "vera_lambda_d": ("d", False)},
    "RANDLORA": {"randlora_lambda": ("lambdas", True), "randlora_gamma": ("gammas", False)},
}
BASES = re.compile(r"(?:base_model\.)?(?:.*\.)?(vera|randlora)_([AB])")


def from_peft(config: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module) -> Adaptation:
    """Inject what peft's files hold; errors as of :func:`randlora.peft_format.import_from_peft`."""
    peft_type = str(config["peft_type"])
    if peft_type not in NAMES:
        raise PeftFormatError(f"peft_type {peft_type} cannot be imported; valid: {', '.join(NAMES)}")
    _check_config(peft_type, config)
    layers, bases = _sorted(peft_type, tensors)
    sites = _sites(model, list(layers))
    try:
        method, make = _method(peft_type, config)
        adaptation = inject(model, method=method, sites=sites, seed=0)
    except KeyError as error:
        raise PeftFormatError(f"the configuration of this {peft_type} adapter lacks {error}") from error
    except ValueError as error:
        raise PeftFormatError(str(error)) from error
    try:
        for site in sites:
            _fill(adaptation, site, layers[site.name.removesuffix(".weight")], NAMES[peft_type])
        if make is not None:
            put_bases(adaptation, make(bases or _grown(peft_type, config, sites)))
    except ValueError as error:
        adaptation.remove()
        raise PeftFormatError(str(error)) from error
    return adaptation


def _check_config(peft_type: str, config: Mapping[str, Any]) -> None:
    for name in FOREIGN:
        if config.get(name):
            raise PeftFormatError(f"{name} = {config[name]!r} of this {peft_type} adapter has no counterpart here")
    if config.get("bias", "none") != "none":
        raise PeftFormatError(f"bias = {config['bias']!r}: the adapter brings biases of the model; only 'none' is read")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(REWRITING):
        raise PeftFormatError(
            f"init_lora_weights = {start!r}: the adapter belongs to base weights that peft has rewritten; let peft "
            "convert it (path_initial_model_for_weight_conversion of save_pretrained)"
        )


def _sorted(peft_type: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the tensors of each layer, and the bases by peft's letter."""
    layers: dict[str, dict[str, Tensor]] = {}
    bases: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if found := BASES.fullmatch(key):
            bases[found[2]] = tensor  # the same under every layer
            continue
        name = key.removeprefix("base_model.model.")
        ending = next((one for one in NAMES[peft_type] if name.endswith(f".{one}")), None)
        if ending is None:
            raise PeftFormatError(f"'{key}' is no tensor of a {peft_type} adapter on linear layers")
        layers.setdefault(name.removesuffix(f".{ending}"), {})[ending] = tensor
    if not layers:
        raise PeftFormatError(f"the file holds no tensor of a {peft_type} adapter")
    return layers, bases


def _sites(model: nn.Module, modules: Sequence[str]) -> tuple[Site, ...]:
    wanted = [f"{module}.weight" for module in modules]
    try:
        found = find_sites(model, [escape(name) for name in wanted])
    except TargetError as error:
        raise PeftFormatError(f"the adapter belongs to another model: {error}") from error
    sites = tuple(site for site in found if site.name in wanted)
    for site in sites:
        if not site.linear:
            raise PeftFormatError(
                f"site '{site.name}' is read by its attention directly; peft's adapter does nothing there"
            )
    return sites


def _method(
    peft_type: str, config: Mapping[str, Any]
) -> tuple[AdapterMethod, Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None]:
    """Return the method, and what makes our bases of peft's where there are any."""
    rank = config["r"]
    if peft_type == "LORA":
        rule: Any = "over_sqrt_rank" if config.get("use_rslora") else "over_rank"
        alpha = float(config["lora_alpha"])
        if config.get("use_dora"):
            return DoRA(rank=rank, alpha=alpha, scale_rule=rule, norm_gradient=False), None
        return LoRA(rank=rank, alpha=alpha, scale_rule=rule, contraction="auto"), None
    if peft_type == "VERA":
        start = config.get("d_initial", 0.1)
        vera = VeRA(
            rank=rank,
            d_initial=start if start > 0 else 0.1,
            alpha=1.0,
            scale_rule="constant",
            basis_scale="unit",  # peft's are scaled as they stand in the file
            distribution="uniform",
            contraction="auto",
        )
        return vera, lambda bases: {"left": bases["B"], "right": bases["A"]}
    randlora = RandLoRA(
        rank=rank,
        basis_count="ceil",
        bases=None,
        composition="sum_of_products",
        stacking="rank_major",
        zero_diagonal="lambda",
        alpha=float(config["randlora_alpha"]),
        scale_rule="over_rank",
        distribution="uniform",
        sparsity=6.0,
        contraction="auto",
    )
    return randlora, lambda bases: {"long": bases["B"].flatten(1), "short": bases["A"].squeeze(1)}


def _fill(
    adaptation: Adaptation, site: Site, given: Mapping[str, Tensor], names: Mapping[str, tuple[str, bool]]
) -> None:
    """Copy a layer's numbers into its adapter.

    Raises:
        ValueError: naming the site, if one is missing, left over or of another shape.
    """
    own = dict(adaptation.adapters[site.name].named_parameters())
    for peft_name, (name, transposed) in names.items():
        if (name in own) != (peft_name in given):
            state = "lacks" if name in own else "has"
            raise ValueError(f"the file {state} '{peft_name}' of '{site.name}', unlike its configuration")
        if name in own:
            tensor = given[peft_name].T if transposed else given[peft_name]
            if tensor.shape != own[name].shape:
                raise ValueError(
                    f"'{peft_name}' of '{site.name}' is {list(given[peft_name].shape)}, which does not fit rank "
                    f"and shape of the site ({site.out_features} x {site.in_features})"
                )
            with torch.no_grad():
                own[name].copy_(tensor)


def _grown(peft_type: str, config: Mapping[str, Any], sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return the bases that peft grows from the key in the configuration, which the file leaves out."""
    load_peft()
    package = importlib.import_module(f"peft.tuners.{peft_type.lower()}")
    name = {"VERA": "Vera", "RANDLORA": "RandLora"}[peft_type]
    names = {"r", "projection_prng_key", "sparse", "very_sparse"}
    settings = getattr(package, f"{name}Config")(**{k: v for k, v in config.items() if k in names})
    grower: Any = _Grower(getattr(package, f"{name}Model"), sites)
    grower._pre_injection_hook(None, settings, ADAPTER)
    # peft draws some in bfloat16 and casts them once they are loaded
    return {side: getattr(grower, f"{peft_type.lower()}_{side}")[ADAPTER].float() for side in "AB"}


class _Grower:
    """Stands in for a model of peft while it draws its bases, which takes its methods and the largest sides."""

    def __init__(self, model_class: type, sites: Sequence[Site]) -> None:
        self._class = model_class
        self._sides = max(site.out_features for site in sites), max(site.in_features for site in sites)

    def _find_dim(self, config: object) -> tuple[int, int]:
        return self._sides

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._class, name), self)
