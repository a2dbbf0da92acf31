"""randlora answer_bench: questions answered per second, in batches and the way the published scripts do it.

The published scripts put one prompt at a time to transformers' beam search. Rounds take every way in turns; ratios are
taken within rounds. Answers of every way are compared with those of the published one. Nothing is trained.

Examples:
  randlora answer_bench                                       the embedded model, some minutes
  randlora answer_bench count=16 rounds=3 batch_sizes=[8,16]
  randlora answer_bench backbone=qwen2_0_5b machine.device=cuda batch_sizes=[64,256] count=256 name=answers_gpu
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.benchmark.publishing import check_settings, conclude
from runners.compose import ConfigError, instantiate, plain
from runners.machine import ROOT

if TYPE_CHECKING:
    from torch import nn

    from randlora.data.question import Question
    from randlora.tasks.answers import AnswerProtocol
    from randlora.tasks.generation import Generated
    from results.answer_record import AnswerBenchmark, AnswerResult

CONFIG = "answer_bench"
PUBLISHED = ROOT / "results" / "published" / "answers"
PAGE = ROOT / "docs" / "COMMONSENSE.md"


def main(config: DictConfig) -> int:
    """Measure, print the table and write the files; return 0."""
    _check(config)
    from results import answer_record, answer_tables

    benchmark = _measure(config)
    conclude(benchmark, config, record=answer_record, tables=answer_tables, published=PUBLISHED, page=PAGE)
    return 0


def _measure(config: DictConfig) -> AnswerBenchmark:
    from randlora.tasks.prompt_batches import token_ids
    from results.answer_record import AnswerBenchmark
    from runners.benchmark.environment import environment

    settings, started_at = instantiate(config), datetime.now(UTC)
    backbone, machine, recipe = settings["backbone"], settings["machine"], settings["recipe"]
    protocol = getattr(recipe.task, "protocol", None)
    if protocol is None:
        raise ConfigError("the recipe answers no questions; choose one of those for questions in conf/recipe")
    questions = _drawn(settings["dataset"], config.count, seed=config.seed, root=machine.data_path)
    try:
        recipe.task.check_backbone(backbone)
        device = machine.torch_device()
        machine.prepare()
        model = backbone.build(root=ROOT, device=device, seed=config.seed).eval()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    tokenizer = backbone.tokenizer(root=ROOT)
    prompts = [protocol.prompt.evaluation(question) for question in questions]
    lengths = sorted(map(len, token_ids(tokenizer, prompts)))
    return AnswerBenchmark(
        name=str(config.name),
        model=f"{backbone.name} in {str(next(model.parameters()).dtype).removeprefix('torch.')}",
        dataset=settings["dataset"].title,
        questions=len(prompts),
        tokens=(lengths[0], lengths[len(lengths) // 2], lengths[-1]),
        protocol=plain(config.recipe.task.protocol),
        environment=environment(device, started_at),
        ways=_in_turns(model, tokenizer, prompts, protocol=protocol, config=config),
    )


def _in_turns(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], *, protocol: AnswerProtocol, config: DictConfig
) -> tuple[AnswerResult, ...]:
    from randlora.tasks.answers import response_of
    from randlora.tasks.generation import Generated, generate_texts
    from randlora.tasks.published_generation import respond_as_published
    from results.answer_record import PUBLISHED, AnswerResult
    from runners.benchmark.progress import stage_progress
    from runners.benchmark.timing import interleave

    beams, most = protocol.beams, protocol.max_new_tokens
    found: dict[str, list[Generated]] = {}

    def one_by_one() -> None:
        texts = [respond_as_published(model, tokenizer, one, beams=beams, max_new_tokens=most) for one in prompts]
        found[PUBLISHED] = [Generated(text=text, alone=True) for text in texts]

    def batched(label: str, size: int) -> Callable[[], None]:
        def answer() -> None:
            written = generate_texts(model, tokenizer, prompts, beams=beams, max_new_tokens=most, batch_size=size)
            found[label] = [dataclasses.replace(one, text=response_of(one.text, "last")) for one in written]

        return answer

    ways: Mapping[str, Callable[[], None]] = {
        PUBLISHED: one_by_one,
        **{f"batches of {size}": batched(f"batches of {size}", size) for size in config.batch_sizes},
    }
    with stage_progress(1) as on_stage:
        stage = f"{len(prompts)} questions in {len(ways)} ways"
        on_stage(stage, 0, config.rounds)
        times = interleave(
            ways,
            rounds=config.rounds,
            seconds=config.seconds,
            on_round=lambda done: on_stage(stage, done, config.rounds),
        )
    reference = [one.text for one in found[PUBLISHED]]
    return tuple(
        AnswerResult(
            label=label,
            seconds=tuple(times[label]),
            different=sum(one.text != text for one, text in zip(found[label], reference, strict=True)),
            alone=0 if label == PUBLISHED else sum(one.alone for one in found[label]),
        )
        for label in ways
    )


def _drawn(dataset: Any, count: int, *, seed: int, root: Path) -> list[Question]:
    """Return questions of every task in turn, each task's drawn from the seed."""
    import torch

    from randlora.seeds import generator_for, seed_for

    tasks = getattr(dataset, "tasks", None)
    if tasks is None:
        raise ConfigError(f"dataset {dataset.name} holds no questions; choose one of those in conf/dataset that do")
    drawn = []
    for name, task in tasks.items():
        questions = task.test(root=root)
        order = torch.randperm(len(questions), generator=generator_for(seed_for(seed, "data"), name)).tolist()
        drawn.append([questions[index] for index in order])
    turns = [group[place] for place in range(max(map(len, drawn))) for group in drawn if place < len(group)]
    return turns[:count]


def _check(config: DictConfig) -> None:
    check_settings(config, whole=("count", "rounds"))
    sizes = plain(config.batch_sizes)
    listed = isinstance(sizes, list) and len(sizes) > 0 and len(set(map(str, sizes))) == len(sizes)
    if not listed or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in sizes):
        raise ConfigError(f"batch_sizes={sizes}: valid: distinct whole numbers from 1, such as batch_sizes=[1,16]")
