"""randlora input_bench: throughput of training, and of making batches, with every way of feeding images.

Whole training steps are compared with the same loop fed with one constant batch; then batches are made without a model,
from stored pixels and from originals, at several image sizes. Rounds take every way in turns; ratios are taken within
rounds. Weights are random; nothing is downloaded. docs/DATA_PIPELINE.md says what each way is.

Examples:
  randlora input_bench                                        the embedded data, about a quarter of an hour
  randlora input_bench only=training rounds=3 steps=10
  randlora input_bench only=pixels sizes=[224] workers=[0,4,8]
  randlora input_bench '+dataset@train.more=cifar10' '+dataset@pixels.more=cifar10'
  randlora input_bench backbone=clip_vit_b32 recipe=clip machine.device=cuda workers=[2,8] name=input_h100
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from runners.benchmark.publishing import check_settings, conclude
from runners.compose import ConfigError, choices, instantiate, plain
from runners.machine import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from results.input_record import InputBenchmark, InputCase
    from runners.input_bench_measure import Protocol, Subject

CONFIG = "input_bench"
PUBLISHED = ROOT / "results" / "published" / "input"
PAGE = ROOT / "docs" / "DATA_PIPELINE.md"
PARTS = ("training", "pixels")


def main(config: DictConfig) -> int:
    """Measure, print the tables and write the files; return 0."""
    _check(config)
    from results import input_record, input_tables

    benchmark = _measure(config)
    conclude(benchmark, config, record=input_record, tables=input_tables, published=PUBLISHED, page=PAGE)
    return 0


def _measure(config: DictConfig) -> InputBenchmark:
    from results.input_record import InputBenchmark
    from runners.benchmark.environment import environment
    from runners.benchmark.progress import stage_progress
    from runners.input_bench_measure import Protocol

    settings, started_at = instantiate(config), datetime.now(UTC)
    try:
        device = settings["machine"].torch_device()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    settings["machine"].prepare()
    number = len(settings["train"]) + len(config.sizes) * len(settings["pixels"])
    protocol = Protocol(
        rounds=config.rounds,
        seconds=config.seconds / max(1, number),
        steps=config.steps,
        workers=tuple(config.workers),
        seed=config.seed,
    )
    with stage_progress(number) as on_stage:
        cases = _cases(config, settings, protocol, on_stage)
    chosen = choices(config)
    return InputBenchmark(
        name=str(config.name),
        model=f"{settings['backbone'].name} with {chosen['method']}",
        settings={part: plain(config[part]) for part in ("recipe", "machine")},
        steps=config.steps,
        environment=environment(device, started_at),
        cases=tuple(cases),
    )


def _cases(
    config: DictConfig, settings: Mapping[str, Any], protocol: Protocol, on_stage: Callable[[str, int, int], None]
) -> list[InputCase]:
    from runners.input_bench_measure import measure_pixels, measure_training

    recipe, machine = settings["recipe"], settings["machine"]
    cases = []
    if config.only in (None, "training"):
        subject = _subject(settings, seed=config.seed)
        for dataset in settings["train"].values():
            cases.append(
                measure_training(dataset, subject, recipe=recipe, machine=machine, protocol=protocol, on_stage=on_stage)
            )
    if config.only in (None, "pixels"):
        for dataset in settings["pixels"].values():
            for size in config.sizes:
                cases.append(
                    measure_pixels(
                        dataset, size=size, recipe=recipe, machine=machine, protocol=protocol, on_stage=on_stage
                    )
                )
    return cases


def _subject(settings: Mapping[str, Any], *, seed: int) -> Subject:
    from runners.input_bench_measure import Subject

    machine, backbone = settings["machine"], settings["backbone"].with_random_weights()
    try:
        settings["recipe"].task.check_backbone(backbone)
        model = backbone.build(root=ROOT, device=machine.torch_device(), seed=seed)
        adaptation = settings["method"].apply(model, backbone.targets_of(model), seed=seed, execution=machine.execution)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Subject(backbone=backbone, model=model, adaptation=adaptation)


def _check(config: DictConfig) -> None:
    check_settings(config, whole=("rounds", "steps"))
    if config.only is not None and config.only not in PARTS:
        raise ConfigError(f"only={config.only}: valid: {', '.join(PARTS)}, or null for both")
    for name, least in (("sizes", 1), ("workers", 0)):
        _check_numbers(name, plain(config[name]), least=least)


def _check_numbers(name: str, value: Any, *, least: int) -> None:
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not listed or any(isinstance(one, bool) or not isinstance(one, int) or one < least for one in value):
        raise ConfigError(
            f"{name}={value}: valid: a list of whole numbers of {least} or more, such as {name}=[{least}]"
        )
