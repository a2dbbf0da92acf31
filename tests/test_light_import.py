"""Importing the library is cheap: torch and the standard library, nothing of the suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from configs import ROOT

HEAVY = [
    "hydra",
    "omegaconf",
    "transformers",
    "open_clip",
    "timm",
    "torchvision",
    "datasets",
    "pandas",
    "pyarrow",
    "PIL",
    "accelerate",
    "wandb",
    "matplotlib",
    "safetensors",
    "yaml",
    "results",
    "runners",
    "jaxtyping",
]
SCRIPT = f"""
import importlib, json, pkgutil, sys
import torch
top = lambda name: name.partition(".")[0]
before = set(sys.modules)
import randlora
for module in pkgutil.walk_packages(randlora.__path__, "randlora."):
    if module.name != "randlora.__main__":
        importlib.import_module(module.name)
after = set(sys.modules)
print(json.dumps({{
    "heavy": sorted(set({HEAVY!r}) & after),
    "new": sorted({{top(name) for name in after}} - {{top(name) for name in before}} - set(sys.stdlib_module_names)),
    "library": sorted(name for name in after if name.startswith("randlora.")),
}}))
"""


def test_every_module_of_the_library_imports_without_the_suite() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, cwd=ROOT.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    assert found["new"] == ["randlora"]
    for module in ("inject", "budgets", "storage", "methods.randlora", "backbones.clip", "tasks.heads", "data.images"):
        assert f"randlora.{module}" in found["library"]
