"""A question and small language datasets for the tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from randlora.data.question import Question, Questions
from randlora.data.question_sources import QuestionFolder
from randlora.data.questions import LanguageDataset, QuestionMix, QuestionSet

ROOT = Path(__file__).parents[2]
NAMES = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
LANGUAGE_CONFIGS = (*NAMES, "commonsense_15k", "commonsense_170k", "commonsense_available", "micro_commonsense")
YES_NO = Questions(name="yes", title="Yes", folder="Yes", answers=["true", "false"])
TWO = Questions(name="two", title="Two", folder="Two", answers=["option1", "option2"])


@cache
def config_of(name: str) -> Any:
    """A dataset as the command line composes it."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose(f"dataset/{name}")["dataset"]


def dataset_of(name: str) -> LanguageDataset:
    dataset = instantiate(config_of(name), _convert_="all")
    assert isinstance(dataset, LanguageDataset)
    return dataset


def ask(number: int = 0, *, answer: str = "true", offered: str = "true/false", **changes: str) -> Question:
    fields = {
        "instruction": f"Is {number} even?\n\nAnswer format: {offered}",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }
    return Question(**{**fields, **changes})


def write(file: Path, questions: Sequence[Question]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    records = [asdict(question) for question in questions]
    if file.suffix == ".json":
        file.write_text(json.dumps(records, indent=4), encoding="utf-8")
        return
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8")
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def one_task(task: Questions = YES_NO, **changes: Any) -> QuestionSet:
    return QuestionSet(**{**_fields([task]), **changes})


def both_tasks(**changes: Any) -> QuestionMix:
    return QuestionMix(**{**_fields([YES_NO, TWO]), "mix": None, "draw": None, **changes})


def _fields(tasks: Sequence[Questions]) -> dict[str, Any]:
    keys = ["train", *(task.name for task in tasks)]
    return {
        "name": "tiny",
        "title": "Tiny",
        "version": 1,
        "source": "folder",
        "sources": {"folder": QuestionFolder(path="tiny")},
        "sizes": dict.fromkeys(keys),
        "sha256": dict.fromkeys(keys),
        "download_mib": 0,
        "licence": "none",
        "citation": "none",
        "questions": {task.name: task for task in tasks},
    }
