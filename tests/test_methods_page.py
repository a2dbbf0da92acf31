"""docs/METHODS.md names every method and variant, and its pictures show what the code computes."""

from __future__ import annotations

import csv
import importlib
import inspect
import pkgutil
import re
import struct
from pathlib import Path

import pytest
from configs import METHODS, ROOT, names

import randlora.methods
from randlora.adapter import AdapterMethod, Method, Site
from results.method_plots import draw_parameters, draw_ranks
from runners import method_facts

PAGE = (ROOT / "docs" / "METHODS.md").read_text(encoding="utf-8")
FIGURES = ROOT / "docs" / "figures"
SHOWN = method_facts.representatives(METHODS)


def method_classes() -> dict[str, type[Method]]:
    found = {}
    for module in pkgutil.iter_modules(randlora.methods.__path__, "randlora.methods."):
        for name, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(cls, Method) and cls.__module__ == module.name and not inspect.isabstract(cls):
                found[name] = cls
    return found


def rows(name: str) -> list[dict[str, str]]:
    with (FIGURES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def size_of(picture: Path) -> tuple[int, int]:
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return struct.unpack(">II", head[16:24])


def test_every_class_of_method_has_a_section() -> None:
    classes = method_classes()
    assert {type(method).__name__ for method in METHODS.values()} <= set(classes)
    assert set(classes) <= set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("name", names("method"))
def test_every_file_is_named_in_the_section_of_its_class(name: str) -> None:
    if name not in METHODS:
        assert f"`{name}`" in PAGE
        return
    section = PAGE.split(f"\n## {type(METHODS[name]).__name__}\n")[1].split("\n## ")[0]
    assert f"`{name}`" in section


def test_the_page_names_no_file_that_is_not_there() -> None:
    tables = re.findall(r"^\| (`[\w`, ]+`) \|", PAGE, re.MULTILINE)
    named = {name for cell in tables for name in re.findall(r"`(\w+)`", cell)}
    assert len(named) > 15
    assert named <= set(names("method"))


def test_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
    headings = {heading.lower() for heading in re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", PAGE)) <= headings


def test_counts_in_the_picture_are_those_of_the_methods() -> None:
    from runners.plan import skeleton_targets

    written = rows(method_facts.COUNTS)
    assert {row["method"] for row in written} == set(SHOWN)
    backbone = written[0]["backbone"]
    targets = skeleton_targets(method_facts.backbone_of(backbone))
    fresh = [
        {key: str(value) for key, value in row.items()} for row in method_facts.count_rows(backbone, SHOWN, targets)
    ]
    assert fresh == [row for row in written if row["backbone"] == backbone]


def test_ranks_in_the_picture_are_those_that_methods_state() -> None:
    written = rows(method_facts.RANKS)
    assert {row["method"] for row in written} == set(SHOWN)
    for row in written:
        method = SHOWN[row["method"]]
        site = Site(name="w", out_features=int(row["out_features"]), in_features=int(row["in_features"]))
        if isinstance(method, AdapterMethod):
            sized = method.resized(int(row["size"])) if row["size"] else method
            assert sized.n_trainable(site) == int(row["parameters"])
            assert sized.update_rank(site) == int(row["rank"])


@pytest.mark.parametrize("name", SHOWN)
def test_a_measured_rank_is_the_stated_one(name: str) -> None:
    method = SHOWN[name]
    if isinstance(method, AdapterMethod):
        site = Site(name="w", out_features=64, in_features=24)
        for size in method_facts.sizes(method, site.short, divide=site.short):
            sized = method if size is None else method.resized(size)
            assert method_facts.measured_rank(sized, site) == sized.update_rank(site)


def test_pictures_are_drawn_from_the_facts(tmp_path: Path) -> None:
    for draw, name in ((draw_parameters, method_facts.COUNTS), (draw_ranks, method_facts.RANKS)):
        draw(FIGURES / f"{name}.csv", tmp_path / f"{name}.png")
        assert size_of(tmp_path / f"{name}.png") == size_of(FIGURES / f"{name}.png")
        assert (FIGURES / f"{name}.png").stat().st_size < 200_000
        assert f"figures/{name}.png" in PAGE


def test_an_unknown_backbone_is_one_line_with_the_valid_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert method_facts.main(["clip_vit_b33"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: backbone=clip_vit_b33")
    assert "clip_vit_b32" in message
    assert message.count("\n") == 1


def test_without_a_backbone_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert method_facts.main([]) == 2
    assert "python -m runners.method_facts" in capsys.readouterr().out
    assert method_facts.main(["--help"]) == 0


def test_the_page_gives_the_command_that_made_its_pictures() -> None:
    backbones = list(dict.fromkeys(row["backbone"] for row in rows(method_facts.COUNTS)))
    assert f"python -m runners.method_facts {' '.join(backbones)}\n" in PAGE
