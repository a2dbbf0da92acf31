from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from tiny_images import EMBEDDED, IMAGE_CONFIGS, ROOT, folder_of

from randlora.data.images import ImageDataset
from randlora.data.sources import ImageFolderSource


@cache
def read(file: Path) -> DictConfig:
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def make(config: DictConfig) -> ImageDataset:
    dataset = instantiate(config, _convert_="all")
    assert isinstance(dataset, ImageDataset)
    return dataset


def named(name: str) -> ImageDataset:
    return make(read(ROOT / "conf" / "dataset" / f"{name}.yaml"))


def nodes_with_a_target(node: Any) -> Iterator[Any]:
    if OmegaConf.is_dict(node):
        if "_target_" in node:
            yield node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from nodes_with_a_target(node[key])


@pytest.mark.parametrize("file", IMAGE_CONFIGS, ids=lambda file: file.stem)
def test_config_states_every_field(file: Path) -> None:
    config = read(file)
    nodes = list(nodes_with_a_target(config))
    assert {config, config.splits, *config.sources.values()} <= set(nodes)
    for node in nodes:
        fields = {field.name for field in dataclasses.fields(get_class(node._target_))}
        assert set(node.keys()) - {"_target_"} == fields, node._target_


@pytest.mark.parametrize("file", [f for f in IMAGE_CONFIGS if "???" not in f.read_text()], ids=lambda file: file.stem)
def test_config_makes_a_dataset_of_its_name_whatever_source_is_chosen(file: Path) -> None:
    dataset = make(read(file))
    assert dataset.name == file.stem
    assert len(dataset.captions) == len(dataset.ensemble) == len(dataset.classes)
    assert not any("{" in caption for captions in dataset.ensemble for caption in captions)
    chosen = [dataclasses.replace(dataset, source=source) for source in dataset.sources]
    assert dataset in chosen
    assert len({one.identity for one in chosen}) == len(chosen)


def test_image_folder_config_needs_a_place_and_classes() -> None:
    config = read(ROOT / "conf" / "dataset" / "image_folder.yaml")
    assert OmegaConf.missing_keys(config) == {"classes", "sources.folder.path"}
    given = {"classes": ["finch", "great tit"], "sources": {"folder": {"path": "birds"}}}
    dataset = make(OmegaConf.merge(config, given))
    assert isinstance(dataset.chosen, ImageFolderSource)
    assert dataset.chosen.path == "birds"
    assert dataset.classes == ("finch", "great tit")


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_files_are_those_of_meta(name: str) -> None:
    import pyarrow.parquet as pq

    folder = folder_of(name)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    dataset = named(name)
    assert list(dataset.chosen.label_names or ()) == meta["classes"]
    assert ROOT / dataset.chosen.path == folder
    assert dataset.size_of("train") == meta["splits"]["train"]
    assert dataset.size_of("test") == meta["splits"]["test"]
    assert dataset.licence == meta["licence"]
    assert dataset.citation == meta["citation"]
    pixels = {}
    for split in ("train", "test"):
        file = folder / f"{split}.parquet"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == meta["sha256"][split]
        table = pq.read_table(file)
        assert table.num_rows == meta["splits"][split]
        header = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert header["image"]["_type"] == "Image"
        assert header["label"]["names"] == meta["classes"]
        assert set(table["label"].to_pylist()) == set(range(len(meta["classes"])))
        pixels[split] = {image["bytes"] for image in table["image"].to_pylist()}
        assert len(pixels[split]) == table.num_rows
    assert not pixels["train"] & pixels["test"]


def test_embedded_data_is_small_and_credited() -> None:
    data = ROOT / "assets" / "data"
    images = [folder for folder in data.iterdir() if folder.name != "commonsense"]  # see test_question_configs.py
    assert sorted(folder.name for folder in images) == sorted(folder_of(name).name for name in EMBEDDED)
    files = [file for folder in images for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 19_500_000
    table = (ROOT / "assets" / "README.md").read_text(encoding="utf-8")
    for name in EMBEDDED:
        meta = json.loads((folder_of(name) / "meta.json").read_text(encoding="utf-8"))
        assert f"`{folder_of(name).name}`" in table
        assert meta["citation"] in table


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mini_eurosat", {"Sea or Lake": "lake or sea", "Herbaceous Vegetation Land": "brushland or shrubland"}),
        ("mini_gtsrb", {"stop": "stop"}),
        ("pets3", {"bengal": "Bengal", "american bulldog": "american bulldog"}),
        ("fashion_mnist", {"trouser": "pair of trousers", "ankle boot": "ankle boot"}),
    ],
)
def test_prompt_words_belong_to_the_label_of_the_source(name: str, words: dict[str, str]) -> None:
    dataset = named(name)
    by_source = dict(zip(dataset.chosen.label_names or (), dataset.classes, strict=True))
    assert words.items() <= by_source.items()


@pytest.fixture(scope="module")
def make_subsets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_subsets", ROOT / "assets" / "make_subsets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A module with dataclasses has to be registered before it is executed.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_make_subsets_takes_the_same_images_whatever_the_row_order(make_subsets: ModuleType) -> None:
    labels, digests = [0, 0, 0, 1, 1], ["c", "a", "b", "e", "d"]
    assert make_subsets.select(labels, digests, n_classes=2, k=2) == [1, 2, 3, 4]
    backwards = make_subsets.select(labels[::-1], digests[::-1], n_classes=2, k=2)
    assert {digests[::-1][row] for row in backwards} == {"a", "b", "d", "e"}
    with pytest.raises(ValueError, match=r"labels \[2\] are outside the 2 classes"):
        make_subsets.select([0, 2], ["a", "b"], n_classes=2, k=1)
    with pytest.raises(ValueError, match="class 1 has no image"):
        make_subsets.select([0], ["a"], n_classes=2, k=1)


def test_make_subsets_reproduces_embedded_files_from_themselves(
    make_subsets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    source = ROOT / "assets" / "data"
    monkeypatch.setattr(make_subsets, "SUBSETS", [s for s in make_subsets.SUBSETS if s.name in ("mnist", "pets3")])
    for destination in ("one", "two"):
        assert make_subsets.main(["--source", str(source), "--destination", str(tmp_path / destination)]) == 0
    assert "[2/2] pets3: 300 train + 298 test images" in capsys.readouterr().out
    for file in ("mnist/train.parquet", "pets3/test.parquet", "pets3/meta.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    # Selecting as many again from what was selected changes nothing: what is embedded is what the script selects.
    again, embedded = (pq.read_table(folder / "mnist" / "train.parquet") for folder in (tmp_path / "one", source))
    assert again.equals(embedded)


def test_make_subsets_says_what_is_missing(
    make_subsets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_subsets.main(["--source", str(tmp_path), "--destination", str(tmp_path / "out")]) == 1
    assert "mnist: FileNotFoundError" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
