"""Importing torchvision beside a torch build that lacks its compiled operators.

open_clip and timm import torchvision. On a CPU build of torch, the CUDA build of torchvision from the package index
stops with ``operator torchvision::nms does not exist``. Declaring the two missing schemas lets its Python parts,
which is all the models need, import as usual. Where torchvision is whole, nothing is declared.
"""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# a Library takes its declarations back when it is collected
_declared: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision; call before anything that imports it.

    Raises:
        RuntimeError: if torchvision fails for any other reason than the missing operator.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS.values():
            library.define(schema)
        _declared.append(library)
        importlib.import_module("torchvision")
