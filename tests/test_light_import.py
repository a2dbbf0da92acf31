"""Importing the library is cheap: torch and the standard library, nothing of the suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
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


# runs a verb in this process and prints its exit code and which of the heavy packages are there
VERB = """
import contextlib, io, json, sys
from runners.cli import main
with contextlib.redirect_stdout(io.StringIO()) as shown:
    code = main(sys.argv[1:])
watched = ("torch", "transformers", "datasets", "open_clip", "peft", "bitsandbytes")
heavy = [name for name in watched if name in sys.modules]
print(json.dumps({"code": code, "heavy": heavy, "shown": len(shown.getvalue())}))
"""
# what open_clip imports by itself does not count
IMAGES = """
import json, sys
from pathlib import Path
import torch
from randlora.backbones.torchvision_guard import import_torchvision
import_torchvision()
import open_clip
names = lambda: {n for n in sys.modules if n.partition(".")[0] in ("transformers", "datasets", "peft", "bitsandbytes")}
before = names()
from runners.compose import compose
from runners.plan import check_run
run = check_run(compose("config", ["method=randlora", "dataset=mini_eurosat"]))
model = run.backbone.with_random_weights().build(root=Path(), device=torch.device("cpu"), seed=1)
adaptation = run.solution.method.apply(model, run.backbone.targets_of(model), seed=1)
run.backbone.probe(model, batch=1, generator=torch.Generator().manual_seed(1))()
print(json.dumps({"new": sorted(names() - before), "sites": len(adaptation.sites)}))
"""


def outcome(script: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "backbone=llama3_8b", "dataset=commonsense_170k", "recipe=commonsense", "--cfg", "job"],
        ["table", "table=commonsense_llama3"],
    ],
    ids=["help", "verb", "composing", "table"],
)
def test_the_command_line_loads_no_language_library(arguments: list[str], tmp_path: Path) -> None:
    where = [f"records={tmp_path / 'none'}", f"to={tmp_path / 'tables'}"] if arguments[0] == "table" else []
    found = outcome(VERB, *arguments, *where)
    assert found["code"] == 0
    assert found["shown"] > 100
    assert found["heavy"] == []


def test_an_image_run_loads_no_language_library_beyond_open_clip() -> None:
    found = outcome(IMAGES)
    assert found["sites"] > 0
    assert found["new"] == []


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
