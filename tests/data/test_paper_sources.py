"""The sources of the 22 datasets of the paper: pins, layouts on disk, and real files where this machine has some."""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path

import pytest
from paper_sets import each, letters, paper_sets
from tiny_images import ROOT

from randlora.data.labels import LabelMap
from randlora.data.layouts import CoopFolder, TorchvisionFolder, VocFolder
from randlora.data.sources import HubSource, ImageFolderSource, WebDatasetSource

# Folder and file of CoOp's DATASETS.md; Caltech101 (100 classes there) and FGVCAircraft (no such file) are left out.
COOP = {
    "oxford_pets": ("oxford_pets", "images", "split_zhou_OxfordPets.json"),
    "cars": ("stanford_cars", "", "split_zhou_StanfordCars.json"),
    "flowers102": ("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json"),
    "food101": ("food-101", "images", "split_zhou_Food101.json"),
    "sun397": ("sun397", "SUN397", "split_zhou_SUN397.json"),
    "dtd": ("dtd", "images", "split_zhou_DescribableTextures.json"),
    "eurosat": ("eurosat", "2750", "split_zhou_EuroSAT.json"),
    "ucf101": ("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
}
# CoOp drew these anew from all images, so they have other sizes than the paper's.
OTHER_SPLIT = {"dtd", "food101", "flowers102"}
# Sources whose commit was not seen.
UNPINNED = {
    *(("eurosat", "blanchon"), ("cifar10", "tanganke")),
    *(("imagenet", "hub"), ("caltech256", "hub"), ("country211", "hub")),
}
# Sets of images that a machine may hold as parquet files under RANDLORA_REAL_DATA, and the source with their names.
REAL = os.environ.get("RANDLORA_REAL_DATA")
COMPLETE = {
    **{"cifar10": "folder", "cifar100": "folder", "mnist": "folder", "gtsrb": "hub"},
    **{"eurosat": "coop", "flowers102": "torchvision"},
}
PARTIAL = {
    "caltech101": ("caltech101", "torchvision"),
    "dtd10": ("dtd", "folder"),
    "pets3": ("oxford_pets", "folder"),
}


@each
def test_sources_can_be_used(name: str) -> None:
    dataset = paper_sets()[name]
    assert next(iter(dataset.sources)) == dataset.source
    assert isinstance(dataset.sources["folder"], ImageFolderSource)
    for source, place in dataset.sources.items():
        for part in ("train", "validation", "test"):
            assert set(dataset.splits.keys(part)) <= set(place.splits), source
        if isinstance(place, HubSource | WebDatasetSource):
            assert re.fullmatch(r"[\w-]+/[\w.-]+", place.id)
            assert (place.revision is None) == ((name, source) in UNPINNED), source
            assert place.revision is None or re.fullmatch("[0-9a-f]{40}", place.revision)


@each
def test_a_file_says_what_was_seen_of_its_hub_source(name: str) -> None:
    chosen = paper_sets()[name].chosen
    text = (ROOT / "conf" / "dataset" / f"{name}.yaml").read_text(encoding="utf-8")
    comments = " ".join(line.strip(" #") for line in text.splitlines() if line.lstrip().startswith("#"))
    if isinstance(chosen, HubSource):
        assert "Nothing of it has been downloaded for this repository." in comments
        assert ("Seen: " in comments) or ("Gated" in comments)
        assert chosen.revision is not None or "Not seen: " in comments
    else:
        assert "No hub source" in comments
        assert paper_sets()[name].download_mib == 0


def test_the_page_on_datasets_names_every_set_and_hub_source() -> None:
    text = (ROOT / "docs" / "DATASETS.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(" `"): line for line in text.splitlines() if len(cells := line.split("|")) > 5}
    for name, dataset in paper_sets().items():
        sizes = dataset.sizes or {}
        assert dataset.title in rows[name]
        for size in sizes.values():
            assert f"{size:,}" in rows[name], name
        for place in dataset.sources.values():
            if isinstance(place, HubSource | WebDatasetSource):
                assert place.id in rows[name], name


def test_coop_folders_are_those_of_its_manual() -> None:
    found = {}
    for name, dataset in paper_sets().items():
        place = dataset.sources.get("coop")
        if place is not None:
            assert isinstance(place, CoopFolder)
            found[name] = (place.path, place.images, place.split_file)
            text = (ROOT / "conf" / "dataset" / f"{name}.yaml").read_text(encoding="utf-8")
            assert ("dataset.sizes=null" in text) == (name in OTHER_SPLIT)
    assert found == COOP


def test_torchvision_has_these_classes_and_arguments() -> None:
    from randlora.backbones.torchvision_guard import import_torchvision

    import_torchvision()
    from torchvision import datasets

    stated = set()
    for name, dataset in paper_sets().items():
        place = dataset.sources.get("torchvision")
        if place is None:
            continue
        assert isinstance(place, TorchvisionFolder)
        kind = getattr(datasets, place.dataset)
        for arguments in place.splits.values():
            assert set(arguments) <= set(inspect.signature(kind).parameters) | {"split"}, place.dataset
        if isinstance(getattr(kind, "classes", None), list):
            stated.add(name)
            assert list(place.label_names or ()) == kind.classes
    assert stated == {"mnist", "flowers102"}  # the others read their names from files


def test_pascal_voc_is_the_boxes_of_the_kit() -> None:
    voc = paper_sets()["pascal_voc"].chosen
    assert isinstance(voc, VocFolder)
    assert voc.splits == {"train": ("train",), "validation": ("val",), "test": ("test",)}
    assert list(voc.label_names or ()) == sorted(voc.label_names or ())


def real(folder: str) -> Path:
    if REAL is None:
        pytest.skip("RANDLORA_REAL_DATA names no folder with real sets")
    place = Path(REAL) / folder
    if not (place / "test.parquet").is_file():
        pytest.skip(f"there is no {folder} under RANDLORA_REAL_DATA")
    return place


@pytest.mark.parametrize("name", COMPLETE)
def test_real_files_number_their_classes_as_described(name: str) -> None:
    import pyarrow.parquet as pq

    header = pq.read_schema(real(name) / "test.parquet").metadata[b"huggingface"]
    stated = json.loads(header)["info"]["features"]["label"]["names"]
    dataset = paper_sets()[name]
    names = dataset.sources[COMPLETE[name]].label_names or ()
    # By letters, because copies differ in spaces and in a question mark.
    ones, others = [letters(label) for label in stated], [letters(label) for label in names]
    mapped = LabelMap.between(stated=ones, label_names=others, classes=dataset.classes, where=name)
    assert mapped.order == tuple(range(len(dataset.classes)))


@pytest.mark.parametrize("folder", PARTIAL)
def test_classes_of_real_parts_are_among_the_described(folder: str) -> None:
    stated = json.loads((real(folder) / "meta.json").read_text(encoding="utf-8"))["classes"]
    name, source = PARTIAL[folder]
    known = {letters(label) for label in paper_sets()[name].sources[source].label_names or ()}
    assert len(stated) > 2
    assert {letters(label) for label in stated} <= known
