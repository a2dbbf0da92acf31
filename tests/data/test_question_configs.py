"""The files of language datasets: complete, equal to what they describe, small and credited."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from tiny_images import IMAGE_CONFIGS
from tiny_questions import LANGUAGE_CONFIGS, NAMES, ROOT, ask, config_of, dataset_of, write

from randlora.data.question import Question, Questions, digest_of, read_questions
from randlora.data.questions import QuestionSet

EMBEDDED = ROOT / "assets" / "data" / "commonsense"
META = json.loads((EMBEDDED / "meta.json").read_text(encoding="utf-8"))
FOLDERS = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}


def nodes_with_a_target(node: Any) -> Iterator[Any]:
    if OmegaConf.is_dict(node):
        if "_target_" in node:
            yield node
        for key in node:
            yield from nodes_with_a_target(node[key])


def test_every_dataset_is_tested_here_or_as_images() -> None:
    files = sorted(file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml"))
    assert files == sorted((*LANGUAGE_CONFIGS, *(file.stem for file in IMAGE_CONFIGS)))
    assert sorted(file.stem for file in (ROOT / "conf" / "questions").glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", LANGUAGE_CONFIGS)
def test_config_states_every_field(name: str) -> None:
    nodes = list(nodes_with_a_target(config_of(name)))
    tasks = 1 if name in NAMES else 8
    assert sum(node._target_.endswith(".Questions") for node in nodes) == tasks
    for node in nodes:
        fields = {field.name for field in dataclasses.fields(get_class(node._target_))}
        assert set(node.keys()) - {"_target_"} == fields, node._target_


@pytest.mark.parametrize("name", LANGUAGE_CONFIGS)
def test_config_makes_equal_frozen_datasets_of_its_name(name: str) -> None:
    dataset = dataset_of(name)
    assert dataset == instantiate(config_of(name), _convert_="all")
    assert dataset.name == name
    assert tuple(dataset.tasks) == ((name,) if name in NAMES else NAMES)
    for key, task in dataset.tasks.items():
        assert isinstance(task, QuestionSet)
        assert task.questions[key].folder == FOLDERS.get(key, key)
        assert task.chosen == dataset.chosen
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.anything = 1  # type: ignore[attr-defined]


def test_the_words_are_those_of_the_published_extraction() -> None:
    five = tuple(f"answer{n}" for n in range(1, 6))
    assert {name: dataset_of(name).tasks[name].answers for name in NAMES} == {
        "boolq": ("true", "false"),
        "piqa": ("solution1", "solution2"),
        "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
        "winogrande": ("option1", "option2"),
        **dict.fromkeys(("social_i_qa", "arc_easy", "arc_challenge", "openbookqa"), five),
    }


def test_the_same_test_questions_are_stated_everywhere() -> None:
    for mix in ("commonsense_15k", "commonsense_170k"):
        for name in NAMES:
            for field in ("sizes", "sha256"):
                assert getattr(dataset_of(mix), field)[name] == getattr(dataset_of(name), field)[name]
    assert sum(size for key, size in dataset_of("commonsense_170k").sizes.items() if key != "train") == 22_419
    assert dataset_of("commonsense_available").draw.count == dataset_of("commonsense_available").sizes["train"]


def test_words_are_checked() -> None:
    for answers in ("true", ["true"], ["a", "a"]):
        with pytest.raises(ValueError, match=r"questions yes: answers = .*two or more distinct words"):
            Questions(name="yes", title="Yes", folder="Yes", answers=answers)


def test_embedded_files_are_those_of_meta() -> None:
    dataset = dataset_of("micro_commonsense")
    assert set(META["tasks"]) == {task.questions[name].folder for name, task in dataset.tasks.items()}
    total = 0
    for name in NAMES:
        folder = FOLDERS.get(name, name)
        for part in ("train", "test"):
            file, stated = EMBEDDED / folder / f"{part}.jsonl.gz", META["tasks"][folder][part]
            assert hashlib.sha256(file.read_bytes()).hexdigest() == stated["sha256"]
            questions = read_questions(file)
            assert (len(questions), digest_of(questions)) == (stated["questions"], stated["questions_sha256"])
            assert stated["questions"] <= stated["short_enough"] <= stated["in_source"]
            total += file.stat().st_size
        assert dataset.sizes[name] == META["tasks"][folder]["test"]["questions"] <= 300
        assert META["tasks"][folder]["licence"] == dataset_of(name).licence
        assert META["tasks"][folder]["citation"] == dataset_of(name).citation
    assert total < 4_000_000
    assert sum(task["train"]["questions"] for task in META["tasks"].values()) == dataset.sizes["train"] == 15_000


def test_embedded_questions_are_credited() -> None:
    text = (ROOT / "assets" / "README.md").read_text(encoding="utf-8")
    for folder, task in META["tasks"].items():
        assert f"`{folder}`" in text
        assert task["licence"].partition(",")[0] in text
        assert task["citation"] in text
    assert META["compiled_by"] in text


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_commonsense", ROOT / "assets" / "make_commonsense.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_shares_are_even_as_far_as_they_go(maker: ModuleType) -> None:
    assert maker.even_shares({"a": 10, "b": 2, "c": 10}, 12) == {"a": 5, "b": 2, "c": 5}
    assert maker.even_shares({"a": 10, "b": 10}, 5) == {"a": 3, "b": 2}
    assert maker.even_shares({"a": 1, "b": 2}, 9) == {"a": 1, "b": 2}


def test_a_draw_is_the_same_whatever_the_order(maker: ModuleType) -> None:
    questions = [ask(n) for n in range(40)]
    chosen = maker.drawn(questions, 7)
    assert len(chosen) == 7
    assert maker.drawn(questions[::-1], 7)[::-1] == chosen
    assert maker.drawn(chosen, 7) == chosen


def test_questions_are_distinct_and_short(maker: ModuleType) -> None:
    long = ask(instruction="a long story. " * 100 + "Answer format: true/false")
    assert maker.distinct([ask(1), ask(2), ask(1, answer="false")]) == [ask(1), ask(2)]
    assert maker.short_ones([ask(1), long, ask(2)]) == [ask(1), ask(2)]


def social(story: str, number: int) -> Question:
    return ask(instruction=f"Please choose the correct answer to the question: {story} What of {number}?")


def test_the_files_are_made_of_what_is_there(
    maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "ORIGINS", [one for one in maker.ORIGINS if one.folder in ("boolq", "social_i_qa")])
    monkeypatch.setattr(maker, "TRAIN_QUESTIONS", 12)
    monkeypatch.setattr(maker, "TEST_QUESTIONS", 4)
    write(tmp_path / "boolq" / "train.jsonl.gz", [ask(n) for n in range(30)])
    write(tmp_path / "boolq" / "test.jsonl.gz", [ask(n) for n in range(28, 36)])
    stories = [social(f"Kim met friend {n}.", n % 2) for n in range(10) for _ in (0, 1)]
    write(tmp_path / "social_i_qa" / "test.jsonl.gz", [*stories, social("Kim met friend 3.", 7)])
    arguments = ["--source", str(tmp_path), "--destination", str(tmp_path / "out")]
    assert maker.main(arguments) == 0
    made = {path.relative_to(tmp_path / "out"): path.read_bytes() for path in (tmp_path / "out").rglob("*.gz")}
    assert maker.main(arguments) == 0
    assert {path: (tmp_path / "out" / path).read_bytes() for path in made} == made
    parts = {part: read_questions(tmp_path / "out" / "social_i_qa" / f"{part}.jsonl.gz") for part in ("train", "test")}
    assert len(parts["test"]) == 4
    assert not {maker.story(q) for q in parts["train"]} & {maker.story(q) for q in parts["test"]}
    trained = read_questions(tmp_path / "out" / "boolq" / "train.jsonl.gz")
    assert not set(trained) & {ask(28), ask(29)}
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["tasks"]["boolq"]["train"]["short_enough"] == 28
    assert len(trained) + len(parts["train"]) == 12
    assert gzip.decompress(made[Path("boolq/test.jsonl.gz")]).count(b"\n") == 4


def test_nothing_is_written_where_something_is_missing(
    maker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert maker.main(["--source", str(tmp_path), "--destination", str(tmp_path / "out")]) == 1
    assert "error: there is no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
