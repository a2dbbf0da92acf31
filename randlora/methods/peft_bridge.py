"""Any method of peft that adapts the weights of linear layers, as a method of the suite."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import nn

from randlora.adapter import Method, Site, Targets
from randlora.checks import check_whole
from randlora.execution import DEFAULT_EXECUTION, Execution
from randlora.inject import owner_of
from randlora.peft_inject import PeftAdaptation, inject_peft
from randlora.peft_layers import own_stream, stand_in, trained_numbers
from randlora.peft_types import NEARLY_AT_BASE, build_config, check_options, check_type, size_option

TRIAL = Site(name="trial.weight", out_features=256, in_features=256)  # every default of peft fits it


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """Adapts the sites with layers of peft; everything that is not stated is peft's default.

    Seeds of frozen random tensors (``projection_prng_key`` and the like) come from the run's seed unless an option
    states them. Execution choices have no effect: peft's layers run as peft runs them.

    Attributes:
        peft_type: peft's name of the method, such as ``LORA`` or ``FOURIERFT``.
        size: value of the option that sets the number of trained parameters (``r``, or see
            :data:`randlora.peft_types.SIZES`), the one that a budget changes; None leaves peft's default.
        options: further options of peft's configuration class, by its names.
    """

    adds_parameters: ClassVar[bool] = True
    peft_type: str
    size: int | None
    options: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        check_type(self.peft_type)
        options = {} if self.options is None else self.options
        if not isinstance(options, Mapping):
            raise ValueError(f"Peft.options = {options!r}; valid: a mapping such as {{lora_alpha: 16}}, or null")
        check_options(self.peft_type, options)
        # a copy of its own: whoever made the mapping may change it
        object.__setattr__(self, "options", copy.deepcopy(dict(options)))
        self._check_size()
        build_config(self.peft_type, self._all_options(), ["trial"], seed=0)

    def __hash__(self) -> int:
        return hash((self.peft_type, self.size, json.dumps(self.options, sort_keys=True, default=str)))

    @property
    def size_field(self) -> str | None:
        """``size`` where an option of the type is one, else None."""
        return "size" if size_option(self.peft_type) else None

    @property
    def starts_at_base(self) -> bool:
        """Whether a 256 x 256 layer computes bit for bit the same under peft's; False if the options do not fit it.

        False for types that start at the base but for rounding, which depends on the shape.
        """
        return self.peft_type not in NEARLY_AT_BASE and _starts_at_base(self)

    def count(self, targets: Targets) -> int:
        """Return the number of trained parameters, counted on stand-ins.

        Raises:
            ValueError: naming the site, if peft cannot adapt it.
        """
        return sum(_numbers(self, targets.sites).values())

    def tensor_names(self, targets: Targets) -> list[str]:
        """Return the names of the trained tensors in the adapted model."""
        return list(_numbers(self, targets.sites))

    def largest_size(self, targets: Targets) -> int:
        """Return the largest size that peft takes: of ``r`` at most the shortest side, else the smallest area."""
        short = size_option(self.peft_type) == "r"
        least, most = 1, min(site.short if short else site.short * site.long for site in targets.sites)
        while least < most:
            middle = (least + most + 1) // 2
            try:
                self.resized(middle).count(targets)
            except ValueError:
                most = middle - 1
            else:
                least = middle
        return least

    def apply(
        self, model: nn.Module, targets: Targets, *, seed: int, execution: Execution = DEFAULT_EXECUTION
    ) -> PeftAdaptation:
        """Freeze the model and let peft adapt the sites.

        Raises:
            ValueError: naming the site, if peft cannot adapt it.
        """
        return inject_peft(
            model,
            method=self,
            peft_type=self.peft_type,
            options=self._all_options(),
            sites=targets.sites,
            seed=seed,
        )

    def _all_options(self) -> dict[str, Any]:
        options = copy.deepcopy(dict(self.options or {}))  # peft changes some of its own
        if self.size is not None and (name := size_option(self.peft_type)):
            options[name] = self.size
        return options

    def _check_size(self) -> None:
        if self.size is None:
            return
        check_whole(self, "size")
        name = size_option(self.peft_type)
        if name is None:
            raise ValueError(
                f"Peft.size = {self.size}: {self.peft_type} has no option that any whole number fits; valid: null, and "
                "its own options under options"
            )
        if name in (self.options or {}):
            raise ValueError(f"Peft.size = {self.size} and options.{name} are the same thing; state one of them")


@lru_cache(maxsize=4096)
def _numbers(method: Peft, sites: tuple[Site, ...]) -> Mapping[str, int]:
    return trained_numbers(method.peft_type, method._all_options(), sites)


@lru_cache(maxsize=256)
def _starts_at_base(method: Peft) -> bool:
    model = stand_in({"trial": TRIAL}, device="cpu")
    with own_stream(0, set()):
        x = torch.randn(7, TRIAL.in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        layer, _ = owner_of(model, TRIAL.name)
        before = layer(x)
        try:
            adaptation = method.apply(model, Targets(sites=(TRIAL,)), seed=0)
        except ValueError:
            return False
        with own_stream(0, set()):
            after = model.get_submodule("trial")(x)
        adaptation.remove()
    return torch.equal(before, after)
