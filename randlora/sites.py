"""Finding the weight matrices of a model that adapters may update."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from randlora.adapter import Site
from randlora.packed import sides_of


class TargetError(ValueError):
    """A target pattern matches nothing, or something that cannot be adapted."""


def find_sites(model: nn.Module, patterns: Sequence[str], *, model_name: str = "the model") -> tuple[Site, ...]:
    """Return the sites whose names match a pattern, in the model's order.

    A pattern is a shell-style glob over the parameter's full name or over its end from a dot on:
    ``attn.in_proj_weight`` matches ``visual.transformer.resblocks.0.attn.in_proj_weight``.

    Raises:
        TargetError: if a pattern matches no adaptable weight, or one weight has two matching names (tied weights).
    """
    available = {site.name: (site, parameter) for site, parameter in _adaptable(model)}
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in available if _matches(name, pattern)}
        if not matched:
            raise TargetError(_no_match(model, model_name, pattern, list(available)))
        chosen |= matched
    owners: dict[int, str] = {}
    for name in (name for name in available if name in chosen):
        other = owners.setdefault(id(available[name][1]), name)
        if other != name:
            raise TargetError(f"'{other}' and '{name}' of {model_name} are one tied weight: target only one of them")
    return tuple(site for name, (site, _) in available.items() if name in chosen)


def _adaptable(model: nn.Module) -> Iterator[tuple[Site, Tensor]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        lead = f"{prefix}." if prefix else ""
        if isinstance(module, nn.MultiheadAttention):
            weight = module.in_proj_weight
            if weight is not None:
                yield _site(f"{lead}in_proj_weight", weight, linear=False), weight
        elif isinstance(module, nn.Linear):
            # attention reads the weight of its output projection itself and never calls the module
            called = type(module) is not nn.modules.linear.NonDynamicallyQuantizableLinear
            rows, columns = sides_of(module)
            site = Site(name=f"{lead}weight", out_features=rows, in_features=columns, linear=called)
            yield site, module.weight
        elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
            weight = module.weight
            assert isinstance(weight, Tensor)
            yield _site(f"{lead}weight", weight, transposed=True), weight


def _site(name: str, weight: Tensor, *, linear: bool = True, transposed: bool = False) -> Site:
    rows, columns = reversed(weight.shape) if transposed else weight.shape
    return Site(name=name, out_features=rows, in_features=columns, transposed=transposed, linear=linear)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _no_match(model: nn.Module, model_name: str, pattern: str, available: Sequence[str]) -> str:
    others = [name for name, _ in model.named_parameters() if _matches(name, pattern)]
    if others:
        return (
            f"target '{pattern}' matches '{others[0]}' of {model_name}, which is no weight matrix of a linear layer, "
            "Conv1D or fused attention and cannot be adapted"
        )
    # names differ by their last two parts once the block number is out of the way
    endings = list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in available))
    near = difflib.get_close_matches(pattern, endings, n=3, cutoff=0.3) or endings[:3]
    return (
        f"target '{pattern}' matched none of the {len(available)} weights of {model_name}; "
        f"nearest: {', '.join(map(repr, near))}"
    )
