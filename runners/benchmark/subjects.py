"""What is measured against what: subjects, from the lists of overrides in `conf/subjects`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from randlora.adapter import Method
from randlora.execution import Execution
from runners.compose import ConfigError, compose_many, instantiate, plain

SUBJECT = "bench_subject"
PARTS = ("method", "execution", "micro_batches")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One row of a benchmark.

    Attributes:
        label: its name in tables and in ``only=`` and ``relative_to=``.
        overrides: of `conf/bench_subject.yaml`.
        config: what they composed to, without what the config states beside them.
        method: the method.
        execution: how its adapters run.
        compile: run the forward pass and loss through ``torch.compile``.
        micro_batches: parts of the batch that the step takes one after another, with one optimizer step.
    """

    label: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    method: Method
    execution: Execution
    compile: bool
    micro_batches: int


@dataclass(frozen=True, kw_only=True)
class Field:
    """The subjects of a benchmark, and which of them ratios are taken to.

    Attributes:
        subjects: in the order of the tables.
        relative_to: labels of the references of step times.
        memory_relative_to: label of the reference of memory; None for none.
    """

    subjects: tuple[Subject, ...]
    relative_to: tuple[str, ...]
    memory_relative_to: str | None


def read_field(config: DictConfig, *, only: Sequence[str] | None, compiled: bool | Sequence[str]) -> Field:
    """Return the field of subjects that a `conf/subjects` config describes.

    Args:
        config: ``members`` (label to overrides), ``relative_to``, ``memory_relative_to`` and ``compiled``, the labels
            that have a compiled row when compiled rows are asked for.
        only: labels to measure; None for all. References are measured in any case.
        compiled: True for the compiled rows of the config, or their labels.

    Raises:
        ConfigError: for a label that is none, and for an override that does not compose; naming the subject.
    """
    members = {str(label): [str(one) for one in overrides] for label, overrides in plain(config.members).items()}
    references = _labels("subjects.relative_to", config.relative_to, members)
    memory = _labels("subjects.memory_relative_to", config.memory_relative_to, members)
    if len(memory) > 1:
        raise ConfigError(f"subjects.memory_relative_to={', '.join(memory)}: valid: one label, or null")
    wanted = _labels("only", only, members) if only is not None else tuple(members)
    chosen = {label: members[label] for label in members if label in {*wanted, *references, *memory}}
    for label in _labels("compile", config.compiled if compiled is True else compiled or (), members):
        if label in chosen:
            chosen[f"{label}_compiled"] = [*members[label], "compile=true"]
    return Field(
        subjects=tuple(_subject(label, chosen[label], config) for label, config in _compose(chosen).items()),
        relative_to=references,
        memory_relative_to=memory[0] if memory else None,
    )


def _compose(chosen: Mapping[str, Sequence[str]]) -> dict[str, DictConfig]:
    try:
        return dict(zip(chosen, compose_many(SUBJECT, list(chosen.values())), strict=True))
    except ConfigError:
        # one by one, to say which
        for label, overrides in chosen.items():
            try:
                compose_many(SUBJECT, [overrides])
            except ConfigError as error:
                raise ConfigError(f"subject {label}: {error}") from error
        raise


def _subject(label: str, overrides: Sequence[str], config: DictConfig) -> Subject:
    try:
        objects = instantiate(config)
    except ConfigError as error:
        raise ConfigError(f"subject {label}: {error}") from error
    if not isinstance(config.compile, bool):
        raise ConfigError(f"subject {label}: compile={config.compile}: valid: true or false")
    count = config.micro_batches
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"subject {label}: micro_batches={count}: valid: a whole number of 1 or more")
    return Subject(
        label=label,
        overrides=tuple(overrides),
        config={part: plain(config[part]) for part in PARTS},
        method=objects["method"],
        execution=objects["execution"],
        compile=config.compile,
        micro_batches=count,
    )


def _labels(field: str, value: Any, members: Mapping[str, Any]) -> tuple[str, ...]:
    found = plain(value)
    labels = () if found is None else (found,) if isinstance(found, str) else tuple(map(str, found))
    for label in labels:
        if label not in members:
            raise ConfigError(f"{field}={label}: there is no such subject; valid: {', '.join(members)}")
    return labels
