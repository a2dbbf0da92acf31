"""Loading language models with weights in 8 or 4 bits, through bitsandbytes."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any, Literal

import torch

from randlora.backbones.errors import WeightsError

Quantize = Literal["8bit", "4bit"]
QUANTIZE: tuple[Quantize, ...] = ("8bit", "4bit")
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

    # at every call of an 8-bit layer it warns that inputs are cast to half precision, which is how it works
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
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


def _check(name: str, quantize: Quantize, device: torch.device) -> None:
    otherwise = "or use weights in floating point: backbone.quantize=null"
    asked = f"backbone {name}: quantize={quantize}"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise WeightsError(f"{asked} needs the package bitsandbytes, which is not installed: {EXTRA}, {otherwise}")
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
