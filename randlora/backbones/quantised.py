"""Loading language models with weights in 8 or 4 bits, through bitsandbytes."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any, Literal

import torch
from torch import nn

from randlora.backbones.errors import WeightsError

Quantize = Literal["8bit", "4bit"]
QUANTIZE: tuple[Quantize, ...] = ("8bit", "4bit")
CPU_FORMAT = "support_avx512bf16_for_cpu"  # the layer's own switch
EXTRA = "pip install 'randlora[quantized]'"


def quantised_loading(quantize: Quantize, *, name: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that quantise the linear layers, the output layer left as it is.

    ``4bit`` is nf4 without quantising its scales again; products run in ``dtype``. ``8bit`` is LLM.int8 with the
    threshold 6 of its paper.

    Raises:
        WeightsError: if bitsandbytes is missing, cannot be loaded, or does not run on the device.
    """
    _check(name, quantize, device)
    import transformers

    if quantize == "8bit":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)
    else:
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=False,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_packed_as_loaded(model: nn.Module) -> None:
    """Keep 4-bit layers from packing their weights anew for evaluation on a CPU.

    It rounds the scales to bfloat16, so that evaluation would change what is trained on.
    """
    for module in model.modules():
        if hasattr(module, CPU_FORMAT):
            setattr(module, CPU_FORMAT, False)


def _check(name: str, quantize: Quantize, device: torch.device) -> None:
    otherwise = "or use weights in floating point: backbone.quantize=null"
    asked = f"backbone {name}: quantize={quantize}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise WeightsError(f"{asked} needs the package bitsandbytes, which is not installed: {EXTRA}, {otherwise}")
    # it warns at every call of an 8-bit layer that inputs are cast to half precision, which is how it works
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        library = importlib.import_module("bitsandbytes")
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise WeightsError(f"{asked}: bitsandbytes cannot be loaded ({reason}): {EXTRA}, {otherwise}") from error
    supported = sorted(getattr(library, "supported_torch_devices", {"cuda"}))
    if device.type not in supported:
        raise WeightsError(
            f"{asked}: bitsandbytes {library.__version__} runs on {', '.join(supported)} and not on {device.type}: "
            f"choose another machine.device, install the version of this suite ({EXTRA}), {otherwise}"
        )
