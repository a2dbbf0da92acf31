"""Every type of peft that adapts linear layers, with options that fit the tiny model's layers."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import Tiny, targets_of

from randlora.adapter import Targets
from randlora.methods.peft_bridge import Peft
from randlora.peft_inject import PeftAdaptation
from randlora.peft_types import valid_types

LINEAR = ("tall.weight", "wide.weight", "square.weight")  # 20 x 8, 12 x 20 and 12 x 12
NOT_INSTALLED = {"ADAMSS": "scikit-learn"}
TYPES = [name for name in valid_types() if name not in NOT_INSTALLED]
FITTING: dict[str, dict[str, Any]] = {
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "FOURIERFT": {"n_frequency": 20},
    "GRALORA": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4},
    "PSOFT": {"r": 4},
    "RANDLORA": {"r": 3},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 2},
    "VBLORA": {"num_vectors": 10, "vector_length": 4},
    "WAVEFT": {"n_frequency": 20},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LORA as DoRA": ("LORA", {"r": 3, "use_dora": True}),
    "LORA with dropout": ("LORA", {"r": 3, "lora_dropout": 0.5, "use_rslora": True}),
    "LORA of two ranks": ("LORA", {"r": 3, "rank_pattern": {"tall": 2}}),
    "LOHA with dropout": ("LOHA", {"r": 3, "rank_dropout": 0.5}),
    "OFT of one block": ("OFT", {"oft_block_size": 4, "block_share": True}),
    "RANDLORA of sparse bases": ("RANDLORA", {"r": 3, "sparse": True}),
    "TINYLORA all tied": ("TINYLORA", {"weight_tying": 1.0}),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, FITTING.get(name, {})) for name in TYPES},
    **VARIANTS,
}


def method_of(case: str) -> Peft:
    peft_type, options = CASES[case]
    return Peft(peft_type=peft_type, size=None, options=options)


def targets(model: Tiny | None = None) -> Targets:
    return targets_of(model or Tiny(), LINEAR)


def adapted(case: str, *, seed: int = 5, dtype: torch.dtype = torch.float32) -> PeftAdaptation:
    model = Tiny().to(dtype).eval()
    return method_of(case).apply(model, targets(model), seed=seed)
