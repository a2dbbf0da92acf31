"""randlora data: which images and questions are here, and having them prepared.

Prepared images are decoded and resized once and stored as memory-mapped arrays that every run reads. A run prepares
what it needs; preparing ahead is for long downloads, and for machines whose jobs have no network.

  randlora data status    every dataset: prepared, here or missing, its sizes beside the paper's, disk space, licence,
                          source, and what to type. Needs no network and reads no image. A source counts as verified
                          once a preparation from it has succeeded on this machine.
  randlora data prepare   download, decode, check the number of images, classes and labels, and store. Start it again
                          after an interruption: downloads and complete splits are kept. After an error nothing is left.
  randlora data verify    read what is prepared, compare every digest and draw random splits again; exit code 1 where
                          something differs.

Questions of language datasets are read as they are and not stored: status counts those in folders, prepare downloads
and checks numbers, answers and stated digests, verify compares digests.

size= is the side in pixels; left out, it is 224 in status and prepare, and verify takes every size at hand.

Examples:
  randlora data status
  randlora data status dataset=[pets3,mini_mnist] format=json
  randlora data prepare dataset=pets3 size=32
  randlora data prepare dataset=[pets3,mini_mnist] workers=8
  randlora data prepare dataset=boolq dataset.source=folder dataset.sources.folder.path=/data/commonsense
  randlora data prepare table=demo                    what a table needs, at the sizes of its backbones
  randlora data prepare dataset=image_folder dataset.sources.folder.path=/data/birds "dataset.classes=[finch,great tit]"
  randlora data verify dataset=pets3
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from runners.compose import ConfigError, instantiate_part
from runners.data_questions import (
    QuestionStatus,
    is_language,
    on_disk,
    prepare_questions,
    question_status,
    verify_questions,
)
from runners.data_select import description_of, every_dataset, jobs_of, names_of
from runners.data_status import USUAL_SIZE, Status, prepared_folders, status_of
from runners.formats import FORMATS, check_format, rows_text, size_text
from runners.machine import Machine

if TYPE_CHECKING:
    from randlora.data.images import ImageDataset
    from randlora.data.prepared import Prepared
    from randlora.data.prepared_build import Event
    from randlora.data.prepared_manifest import PartManifest

CONFIG = "data"
# the words that follow the verb
ACTIONS = ("status", "prepare", "verify")
# groups that it takes a list of
SEVERAL = ("dataset",)


def main(config: DictConfig) -> int:
    """Carry out an action; return 0, 1 where verify finds a difference, or 2 where some of several sets failed."""
    if config.action not in ACTIONS:
        raise ConfigError(f"action={config.action}: valid: {', '.join(ACTIONS)}")
    check_format(config.format, FORMATS)
    for field in ("size", "workers"):
        value = config[field]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{field}={value}: valid: a whole number of 1 or more, or null")
    return {"status": status, "prepare": prepare, "verify": verify}[config.action](config)


def status(config: DictConfig) -> int:
    """Print the table of all datasets or of those asked for; return 0."""
    _refuse(config, "table", "workers")
    machine = instantiate_part("machine", config.machine)
    size = config.size or USUAL_SIZE
    names = names_of(config)
    lines: list[Status] = []
    for name in names or every_dataset():
        described = description_of(name, config if names else None)
        if is_language(described):
            lines.append(question_status(name, described, machine=machine))
        else:
            lines.append(status_of(name, described, machine=machine, size=size))
    if config.format != "text":
        print(rows_text([line.plain() for line in lines], config.format))
        return 0
    images = [line for line in lines if not isinstance(line, QuestionStatus)]
    questions = [line for line in lines if isinstance(line, QuestionStatus)]
    if images:
        _print_images(images, size)
    if questions:
        print(("\n" if images else "") + rows_text([line.asked() for line in questions], "text"))
        for line in questions:
            if line.state in ("differs", "partly here"):
                print(f"{line.dataset}: {line.problem}")
    return 0


def prepare(config: DictConfig) -> int:
    """Prepare datasets one after another; return 0, or 2 if some of several failed."""
    from randlora.data.errors import DataError
    from randlora.data.questions import LanguageDataset

    machine = instantiate_part("machine", config.machine)
    jobs = jobs_of(config)
    if all(isinstance(dataset, LanguageDataset) for dataset, _ in jobs):
        _refuse(config, "size", "workers")
    failed = []
    for dataset, size in jobs:
        try:
            if isinstance(dataset, LanguageDataset):
                prepare_questions(dataset, machine=machine)
            else:
                _prepare(dataset, size, machine=machine, workers=config.workers)
        except DataError as error:
            if len(jobs) == 1:
                raise
            failed.append(dataset.name)
            print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"{len(jobs) - len(failed)} prepared, {len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
    return 2 if failed else 0


def verify(config: DictConfig) -> int:
    """Compare datasets with their manifests and descriptions; return 0, or 1 where something differs."""
    _refuse(config, "table", "workers")
    asked = names_of(config)
    problems: list[str] = []
    images: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    for name in asked or every_dataset():
        description = description_of(name, config if asked else None)
        if not is_language(description):
            rows, found = _verify_images(name, description, config, asked=bool(asked))
            images += rows
        else:
            dataset = on_disk(instantiate_part("dataset", OmegaConf.create(dict(description))))
            rows, found = verify_questions(dataset, machine=instantiate_part("machine", config.machine))
            if not asked and all(row["questions"] is None for row in rows):
                continue  # none of it is here
            questions += rows
        problems += found
    _print_verified(images, questions, config.format)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _verify_images(
    name: str, description: Mapping[str, Any], config: DictConfig, *, asked: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row per prepared part of a dataset of images, and what is wrong with it."""
    from randlora.data.prepared_check import description_problems

    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    found = _prepared(config, description)
    if not found and asked:
        at = f" at {config.size} px" if config.size else ""
        raise ConfigError(f"{name} is not prepared{at}; randlora data prepare dataset={name} prepares it")
    for one in found:
        problems += description_problems(one, instantiate_part("dataset", OmegaConf.create(dict(description))))
        differences = one.problems()
        problems += differences.values()
        for part, stored in one.parts.items():
            differs = any(file in differences for file in one.files_of(part))
            rows.append(_verified(name, one.manifest.size, part, stored, differs=differs))
    return rows, problems


def _print_verified(images: Sequence[dict[str, Any]], questions: Sequence[dict[str, Any]], form: str) -> None:
    if form != "text":
        columns = list(dict.fromkeys(key for row in (*images, *questions) for key in row))
        print(rows_text([{key: row.get(key) for key in columns} for row in (*images, *questions)], form))
        return
    tables = [rows_text(rows, "text") for rows in (images, questions) if rows]
    print("\n\n".join(tables) or "nothing is prepared")


def _verified(dataset: str, size: int, part: str, stored: PartManifest, *, differs: bool) -> dict[str, Any]:
    result = "differs" if differs else "as prepared"
    row = {"dataset": dataset, "size": size, "part": part, "images": stored.images}
    return {**row, "result": result, "digest": stored.digest[:12]}


def _prepare(dataset: ImageDataset, size: int, *, machine: Machine, workers: int | None) -> None:
    from randlora.data.prepared import PreparedStore
    from runners.data_progress import decoding_bars, part_text

    store = PreparedStore(folder=machine.prepared_path)
    decoded: list[int] = []
    began = time.perf_counter()
    with decoding_bars() as show:

        def listen(event: Event) -> None:
            if event.kind == "done" and event.manifest is not None:
                decoded.append(event.manifest.images)
            show(event)

        found = store.prepare(dataset, size, root=machine.data_path, on_progress=listen, workers=workers)
    seconds = time.perf_counter() - began
    for part, stored in found.parts.items():
        print(f"{dataset.name} {part}: {part_text(stored)}")
    how = f"{sum(decoded) / seconds:,.0f} images/s" if decoded else "prepared before"
    print(f"{found.folder} ({size_text(found.manifest.bytes)}, {how})")


def _prepared(config: DictConfig, description: Mapping[str, Any]) -> list[Prepared]:
    """Return what is prepared of a dataset as it is described now, at the size asked for or at all sizes."""
    from randlora.data.prepared import Prepared

    machine = instantiate_part("machine", config.machine)
    return [
        Prepared(folder=folder, manifest=manifest, train_on=description["splits"]["train_on"])
        for folder, manifest in prepared_folders(description, machine.prepared_path)
        if config.size in (None, manifest.size)
    ]


def _print_images(lines: Sequence[Status], size: int) -> None:
    print(rows_text([line.counted(size) for line in lines], "text"))
    print("\n" + rows_text([line.obtained() for line in lines], "text"))
    prepared = sum(size in line.sizes for line in lines)
    missing = sum(line.disk_bytes or 0 for line in lines if size not in line.sizes)
    print(f"\n{prepared} of {len(lines)} prepared at {size} px; the others would take {size_text(missing)} where known")


def _refuse(config: DictConfig, *fields: str) -> None:
    """Raise ConfigError where a field is given that the action does not read."""
    given = [field for field in fields if config[field] is not None]
    if given:
        raise ConfigError(f"{given[0]}={config[given[0]]}: {config.action} does not read it; leave it out")
