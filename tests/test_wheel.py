"""`pip install .` gives the library alone, with torch as its only hard dependency."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from configs import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_it_holds_the_library_and_nothing_of_the_suite(wheel: zipfile.ZipFile) -> None:
    rooms = {Path(name).parts[0] for name in wheel.namelist()}
    assert {room for room in rooms if not room.endswith(".dist-info")} == {"randlora"}
    assert "randlora/backbones/micro_clip.json" in wheel.namelist()


def test_torch_is_the_only_hard_dependency(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    needs = [line for line in wheel.read(metadata).decode().splitlines() if line.startswith("Requires-Dist:")]
    hard = [line for line in needs if "extra ==" not in line]
    assert len(hard) == 1
    assert hard[0].startswith("Requires-Dist: torch")


def test_without_the_suite_the_command_says_where_it_is(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    # -S leaves out the packages of this environment, the suite among them
    done = subprocess.run(
        [sys.executable, "-S", "-m", "randlora"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "checkout" in done.stderr
