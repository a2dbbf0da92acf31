"""Which room may import which, and what the runners may not name (design: arrows go one way)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from configs import CONF, ROOT, names

STDLIB = set(sys.stdlib_module_names)
HEAVY_ROOMS = ("backbones", "data", "tasks")
HEAVY = {"open_clip", "timm", "transformers", "torchvision", "datasets", "huggingface_hub", "PIL", "pyarrow", "numpy"}
HEAVY |= {"filelock"}
# what a saved adapter is written with, and what unpacks quantised weights; imported where they are used
LIBRARY_ANYWHERE = {"torch", "jaxtyping", "safetensors", "bitsandbytes"}
# the bridge to peft, which stands on transformers
BRIDGE = {path.relative_to(ROOT) for path in (ROOT / "randlora").glob("peft_*.py")}
# scipy: the distributions of the tests and of their power
RESULTS_MAY = {"yaml", "pandas", "numpy", "pyarrow", "matplotlib", "tabulate", "scipy"}
# what a runner may know of backbones: what all of them share
SHARED_MODULES = {f"randlora.backbones.{shared}" for shared in ("base", "errors", "torchvision_guard")}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full dotted name of everything imported below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield str(first.value)


def top_level(tree: ast.Module) -> ast.Module:
    """Return the part of a module that runs when it is imported, type-checking blocks left out."""
    body = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]
    body = [node for node in body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body=body, type_ignores=[])


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def roots(imported: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in imported} - STDLIB - {"__future__"}


@pytest.mark.parametrize("path", modules("randlora"), ids=dotted)
def test_library_modules_import_torch_alone(path: Path) -> None:
    assert roots(imports(top_level(parse(path)))) <= {"torch", "randlora"}


@pytest.mark.parametrize("path", modules("randlora"), ids=dotted)
def test_library_knows_no_other_room(path: Path) -> None:
    room = path.relative_to(ROOT / "randlora").parts[0]
    may = {"randlora", *LIBRARY_ANYWHERE} | (HEAVY if room in HEAVY_ROOMS else set())
    if path.relative_to(ROOT) in BRIDGE:
        may |= {"peft", "transformers"}
    if room == "__main__.py":
        # the console script hands over to the suite and does nothing else
        may |= {"runners"}
    assert roots(imports(parse(path))) <= may


@pytest.mark.parametrize("path", modules("randlora"), ids=dotted)
def test_library_prints_nothing_and_reads_no_global_randomness(path: Path) -> None:
    tree = parse(path)
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert path.name == "__main__.py" or "print" not in called
    assert not called & {"random.random", "random.shuffle", "torch.seed", "torch.manual_seed", "np.random.seed", "eval"}
    drawing = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "uniform_", "normal_"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in drawing:
            assert "generator" in {keyword.arg for keyword in node.keywords}, f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", modules("results"), ids=dotted)
def test_results_know_neither_torch_nor_the_other_rooms(path: Path) -> None:
    assert roots(imports(parse(path))) <= {"results", *RESULTS_MAY}


@pytest.mark.parametrize("path", modules("runners"), ids=dotted)
def test_runners_import_no_single_method_backbone_or_dataset(path: Path) -> None:
    for name in imports(parse(path)):
        module = name.rpartition(".")[0]
        if name.startswith(("randlora.methods", "randlora.backbones")):
            assert module in SHARED_MODULES, f"{name} is one of many"


@pytest.mark.parametrize("path", modules("runners"), ids=dotted)
def test_runners_name_no_single_method_backbone_or_dataset(path: Path) -> None:
    chosen = {name for group in ("method", "backbone", "dataset") for name in names(group)}
    chosen -= {"randlora", "peft"}  # packages as well
    tree = parse(path)
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not (found - docstrings) & chosen


@pytest.mark.parametrize("room", ["randlora", "runners", "results"])
def test_nobody_imports_tests(room: str) -> None:
    for path in modules(room):
        assert not {"tests", "pytest", "tiny_models"} & roots(imports(parse(path))), path


def test_experiments_and_conf_hold_yaml_alone() -> None:
    for folder in (CONF, ROOT / "experiments"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        assert {path.suffix for path in files} == {".yaml"}
