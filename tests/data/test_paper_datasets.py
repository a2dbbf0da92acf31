"""The 22 datasets of the paper against its Table 7: sizes, split rules, prompts and the words of their classes."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from paper_sets import TITLES, each, letters, paper_sets
from tiny_images import ROOT

from randlora.data.splits import OfficialSplits, RandomSplits, split_digest

# Number of templates of the zero-shot head, as the paper's code has them (section 4 of its facts).
TEMPLATES = {
    **dict.fromkeys(("mnist", "svhn", "food101", "flowers102", "oxford_pets", "cub200", "pascal_voc"), 1),
    **dict.fromkeys(("cifar10", "cifar100", "resisc45"), 18),
    **dict.fromkeys(("stl10", "sun397", "fgvc_aircraft"), 2),
    **dict.fromkeys(("eurosat", "gtsrb"), 3),
    **dict.fromkeys(("cars", "dtd"), 8),
    **dict.fromkeys(("caltech101", "caltech256"), 34),
    **{"country211": 5, "ucf101": 48, "imagenet": 80},
}
# Images of each class (or of the pool) that a pinned random split rests on.
COUNTS = {
    "eurosat": [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000],
    "caltech101": [8677],
    "caltech256": [30607],
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Where a source's name of a class and the words of its prompts are not the same letters.
WORDS: dict[str, dict[str, str]] = {
    "eurosat": {
        "annualcrop": "annual crop land",
        "herbaceousvegetation": "brushland or shrubland",
        "herbaceousvegetationland": "brushland or shrubland",
        "highway": "highway or road",
        "industrial": "industrial buildings or commercial buildings",
        "industrialbuildings": "industrial buildings or commercial buildings",
        "pasture": "pasture land",
        "permanentcrop": "permanent crop land",
        "residential": "residential buildings or homes or apartments",
        "residentialbuildings": "residential buildings or homes or apartments",
        "sealake": "lake or sea",
        "seaorlake": "lake or sea",
    },
    "caltech101": {
        "faces": "off-center face",
        "faceseasy": "centered face",
        "leopards": "leopard",
        "motorbikes": "motorbike",
        "airplanes": "airplane",
        "carside": "side of a car",
        "cougarbody": "body of a cougar cat",
        "cougarface": "face of a cougar cat",
        "crocodilehead": "head of a  crocodile",
        "flamingohead": "head of a flamingo",
        "snoopy": "snoopy (cartoon beagle)",
        "yinyang": "yin and yang symbol",
    },
    "svhn": {str(digit): word for digit, word in enumerate(DIGITS)},
    "mnist": {f"{digit}{word}": str(digit) for digit, word in enumerate(DIGITS)},
    "flowers102": {"pinkyellowdahlia": "pink and yellow dahlia", "ballmoss": "air plant"},
}
# Names that are codes: what they have to look like, in the ascending order of the labels.
CODES = {("gtsrb", "folder"): r"000\d\d", ("imagenet", "folder"): r"n\d{8}"}
CODES.update({("country211", source): "[A-Z]{2}" for source in ("hub", "torchvision", "folder")})


def table_7() -> dict[str, dict[str, str]]:
    with (ROOT / "results" / "paper" / "image_datasets.csv").open(encoding="utf-8") as file:
        return {re.sub(r" \(.*\)", "", row["dataset"]): row for row in csv.DictReader(file)}


def number(text: str) -> int:
    found = re.match(r"[\d,]+", text)
    assert found is not None
    return int(found[0].replace(",", ""))


def sizes_of(name: str) -> dict[str, int]:
    sizes = paper_sets()[name].sizes
    assert sizes is not None
    return {part: size for part, size in sizes.items() if size is not None}


def test_the_sets_are_those_of_the_paper() -> None:
    assert set(TITLES.values()) == set(table_7())
    with (ROOT / "results" / "paper" / "image_classification.csv").open(encoding="utf-8") as file:
        assert set(TITLES.values()) == {row["dataset"] for row in csv.DictReader(file)} - {"average"}


@each
def test_sizes_classes_and_epochs_are_those_of_table_7(name: str) -> None:
    dataset, row = paper_sets()[name], table_7()[TITLES[name]]
    assert (dataset.name, dataset.title) == (name, TITLES[name])
    assert len(dataset.classes) == number(row["classes"])
    assert dataset.epochs == number(row["epochs 50 %/100 % [P T7]"])
    printed = {"train": number(row["train"]), "validation": number(row["val"]), "test": number(row["test"])}
    if name == "caltech101":  # printed there with its validation images in it, unlike every other row
        printed["train"] -= printed["validation"]
    assert sizes_of(name) == printed


@each
def test_split_rule_gives_these_sizes(name: str) -> None:
    rule, sizes = paper_sets()[name].without_validation().splits, sizes_of(name)
    if isinstance(rule, OfficialSplits) and not rule.draws_validation:
        assert rule.validation  # official parts: nothing is drawn
        return
    total = sum(COUNTS[name]) if name in COUNTS else sizes["train"] + sizes["validation"]
    known: dict[str, Any] = {"count": total}
    if isinstance(rule, RandomSplits) and rule.per_class:
        ordered = torch.arange(len(COUNTS[name])).repeat_interleave(torch.tensor(COUNTS[name]))
        known = {"labels": ordered[torch.randperm(total, generator=torch.Generator().manual_seed(3))]}
    drawn = {}
    for part in ("train", "validation", "test"):
        positions = rule.positions(part, **known)
        if positions is not None:
            drawn[part] = positions
    assert {part: len(positions) for part, positions in drawn.items()} == {part: sizes[part] for part in drawn}
    assert {"train", "validation"} <= set(drawn)
    assert torch.equal(torch.cat(list(drawn.values())).sort().values, torch.arange(total))


@pytest.mark.parametrize("name", COUNTS)
def test_random_splits_are_pinned(name: str) -> None:
    rule, counts = paper_sets()[name].splits, COUNTS[name]
    assert isinstance(rule, RandomSplits)
    assert rule.digest == split_digest(rule, counts)
    assert rule.digest != split_digest(rule, [counts[0] + 1, *counts[1:]])


def test_the_kind_of_split_is_that_of_the_paper() -> None:
    rules = {name: dataset.splits for name, dataset in paper_sets().items()}
    assert {name for name, rule in rules.items() if isinstance(rule, RandomSplits)} == set(COUNTS)
    official = {name for name, rule in rules.items() if isinstance(rule, OfficialSplits) and rule.validation}
    assert official == {"fgvc_aircraft", "flowers102", "pascal_voc", "country211", "ucf101"}
    # The released code trains on every training image, with the validation images among them.
    assert {rule.train_on for rule in rules.values()} == {"full"}


@each
def test_prompts_licence_and_citation(name: str) -> None:
    dataset = paper_sets()[name]
    assert dataset.prompt == "An image of {class}"
    assert len(dataset.templates) == len(set(dataset.templates)) == TEMPLATES[name]
    assert len({words.lower() for words in dataset.classes}) == len(dataset.classes)
    assert dataset.licence.strip()
    assert re.search(r" (19|20)\d\d$", dataset.citation)


def test_imagenet_has_the_words_of_open_clip() -> None:
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "zero_shot_metadata.py"
    # By its file, because importing the package takes seconds.
    metadata_spec = importlib.util.spec_from_file_location("zero_shot_metadata", file)
    assert metadata_spec is not None
    assert metadata_spec.loader is not None
    metadata = importlib.util.module_from_spec(metadata_spec)
    metadata_spec.loader.exec_module(metadata)
    words = list(metadata.IMAGENET_CLASSNAMES)
    # Two pairs of classes share their words there; here each has words of its own.
    assert (words[744], words[836]) == (words[657], words[837]) == ("missile", "sunglasses")
    words[744], words[836] = "projectile", "sunglass"
    config = OmegaConf.load(ROOT / "conf" / "dataset" / "imagenet.yaml")
    assert list(config.classes) == words
    assert list(config.templates) == [template("{class}") for template in metadata.OPENAI_IMAGENET_TEMPLATES]


@each
def test_names_of_sources_belong_to_the_words(name: str) -> None:
    dataset = paper_sets()[name]
    for source, place in dataset.sources.items():
        names = place.label_names
        if names is None:
            continue
        assert len(names) == len(dataset.classes)
        if (name, source) in CODES:
            assert list(names) == sorted(names)
            assert all(re.fullmatch(CODES[name, source], code) for code in names)
            continue
        for label, words in zip(names, dataset.classes, strict=True):
            expected = WORDS.get(name, {}).get(letters(label), label)
            assert letters(expected) == letters(words), (source, label)


def test_names_stand_where_the_sources_number_them() -> None:
    sets = paper_sets()
    food = sets["food101"].classes
    assert food.index("cheesecake") + 1 == food.index("cheese plate")
    seen = {0: "accordion", 36: "faces", 49: "ibis", 56: "leopards", 65: "motorbikes", 94: "watch", 100: "yin_yang"}
    names = sets["caltech101"].chosen.label_names or ()
    assert {label: names[label] for label in seen} == seen
    pets = ("Abyssinian", "american bulldog", "american pit bull terrier", "basset hound", "beagle", "Bengal", "Birman")
    assert sets["oxford_pets"].classes[: len(pets)] == pets
    assert tuple(sets["country211"].chosen.label_names or ())[:2] == ("AD", "AE")
    for name in ("cub200", "caltech256"):
        folders = sets[name].sources["folder"].label_names or ()
        assert [int(folder[:3]) for folder in folders] == list(range(1, len(sets[name].classes) + 1))


def test_words_agree_with_the_embedded_subsets() -> None:
    """Their label names are held to the files in the repository by other tests."""
    for name in ("mnist", "eurosat", "gtsrb"):
        subset = OmegaConf.load(ROOT / "conf" / "dataset" / f"mini_{name}.yaml")
        assert list(subset.classes) == list(paper_sets()[name].classes)
        assert list(subset.templates) == list(paper_sets()[name].templates)
    pets = OmegaConf.load(ROOT / "conf" / "dataset" / "pets3.yaml")
    assert set(pets.classes) < set(paper_sets()["oxford_pets"].classes)


@pytest.mark.parametrize("name", ["dtd", "resisc45", "sun397", "cifar10", "cifar100", "stl10", "pascal_voc"])
def test_classes_are_in_alphabetical_order_where_their_labels_are(name: str) -> None:
    assert list(paper_sets()[name].classes) == sorted(paper_sets()[name].classes)
