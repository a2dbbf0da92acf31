"""Adapters in the files of peft: ``adapter_config.json`` and ``adapter_model.safetensors``, written and read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from randlora.inject import Adaptation
from randlora.peft_errors import PeftFormatError
from randlora.peft_export import to_peft
from randlora.peft_import import from_peft
from randlora.storage import write_atomically

__all__ = ["Exported", "PeftFormatError", "export_to_peft", "import_from_peft"]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        peft_type: peft's name of the method.
        sites: number of adapted layers.
        trained: trained numbers.
        bases: numbers of frozen bases, which peft reads from the file.
        bytes: size of both files.
    """

    peft_type: str
    sites: int
    trained: int
    bases: int
    bytes: int


def export_to_peft(adaptation: Adaptation, folder: Path) -> Exported:
    """Write an adaptation so that ``peft.PeftModel.from_pretrained(base, folder)`` computes the same.

    Frozen bases are written once: with RandLoRA under the first layer, which peft shares with all others (it warns that
    it misses them there). VeRA's scale is contained in its ``d``, and RandLoRA's in its lambdas where it differs from
    layer to layer.

    Raises:
        PeftFormatError: naming the site, where peft cannot represent it; for a method that peft does not have, or
            adapters that are merged.
    """
    from safetensors.torch import save

    files = to_peft(adaptation)
    # what peft writes there; it refuses files without it
    blob = save({name: one.detach().cpu().contiguous() for name, one in files.tensors.items()}, {"format": "pt"})
    text = json.dumps(files.config, indent=2, sort_keys=True).encode()
    write_atomically(folder / TENSORS, blob)
    write_atomically(folder / CONFIG, text)
    trained = adaptation.n_trainable()
    return Exported(
        peft_type=str(files.config["peft_type"]),
        sites=len(adaptation.sites),
        trained=trained,
        bases=sum(one.numel() for one in files.tensors.values()) - trained,
        bytes=len(blob) + len(text),
    )


def import_from_peft(folder: Path, model: nn.Module) -> Adaptation:
    """Put an adapter that peft has written into a model with its base weights loaded, as one of our own methods.

    Understood are LORA (rsLoRA and DoRA as well), VERA and RANDLORA. Bases come from the file, or from peft's own
    generator where it has none. As they cannot grow from a seed of ours, :func:`randlora.storage.save_adapter` stores
    them.

    Raises:
        PeftFormatError: if the files are missing or unreadable, of another type, or say something that our methods do
            not; naming the layer, if it is not in the model or has another shape.
    """
    config = _config(folder / CONFIG)
    return from_peft(config, _tensors(folder / TENSORS), model)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PeftFormatError(f"{path} cannot be read as peft's configuration: {error}") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise PeftFormatError(f"{path} is not peft's configuration: it states no peft_type")
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PeftFormatError(f"{path} cannot be read: {error}; only safetensors files are read") from error
