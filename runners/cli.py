"""The command line: verbs, their help, and errors a person can read."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType

from omegaconf import DictConfig, OmegaConf

from runners.compose import CONF, ConfigError, compose, primary_config
from runners.interrupt import Interrupted
from runners.machine import EXPERIMENTS, ROOT
from runners.multirun import through_hydra
from runners.processes import Processes

VERBS = {
    "run": "train and evaluate one configuration",
    "sweep": "run every missing cell of a table",
    "table": "print a table from the records at hand",
    "differences": "which methods of a table can be told apart",
    "compare": "two folders of records side by side",
    "status": "how far every table is",
    "forget": "remove the records of runs, after asking",
    "plan": "what a table takes before it is run: memory, operations, hours, what is not here",
    "data": "which images are here, and having them prepared",
    "budget": "the size of every method at an equal number of parameters",
    "audit": "check the contract of a method on a backbone",
    "bench": "time and memory of a training step, subject beside subject",
    "input_bench": "throughput of training with every way of feeding images",
    "answer_bench": "questions answered per second, in batches and as published",
    "sweep_bench": "what a sweep costs beside training and evaluation",
    "export": "write the adapter of a run in the files of peft",
    "publish": "copy a table's records to where they are committed",
    "pretrain": "train the embedded CLIP from nothing",
}
MODULES = {"plan": "planning.verb"}  # where it is not the verb's own name
INTERRUPTED = 130
BROKEN_PIPE = 141
HYDRA_FLAGS = (
    "-m",
    "--multirun",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--resolve",
    "-r",
    "--package",
    "-p",
    "--shell-completion",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"error: there is no verb {verb!r}; valid: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    module = import_module(f"runners.{MODULES.get(verb, verb)}")
    if "-h" in rest or "--help" in rest:
        print(_help(module))
        return 0
    processes = Processes.launched()
    try:
        rest = _with_action(verb, module, _without_flags(verb, module, rest))
        _check_launch(verb, rest, processes)
        if any(argument.partition("=")[0] in HYDRA_FLAGS for argument in rest):
            return through_hydra(module, rest, job=_job, folder=ROOT / "results" / "multirun")
        return _start(module, rest)
    except _known_errors() as error:
        if processes.main:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # whoever read the output has enough of it; nor is there anybody to tell when Python flushes the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (Interrupted, KeyboardInterrupt) as interruption:
        print(str(interruption) or "interrupted", file=sys.stderr)
        return INTERRUPTED


def _without_flags(verb: str, module: ModuleType, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the flags of a verb, its ``FLAGS``, as the overrides that they stand for."""
    flags: Mapping[str, str] = getattr(module, "FLAGS", {})
    for argument in arguments:
        known = argument in flags or argument.partition("=")[0] in HYDRA_FLAGS
        if argument.startswith("--") and not known:
            valid = ", ".join([*flags, "--help", "--multirun"])
            raise ConfigError(f"randlora {verb} has no {argument}; valid: {valid}, and field=value")
    return [flags.get(argument, argument) for argument in arguments]


def _with_action(verb: str, module: ModuleType, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the words after a verb as overrides: ``action=``, or what its ``WORDS`` name."""
    if (names := getattr(module, "WORDS", ())) and all(_is_word(one) for one in arguments[: len(names)]):
        return [*map(_quoted, names, arguments), *arguments[len(names) :]]
    actions = getattr(module, "ACTIONS", None)
    if actions is None or any(argument.startswith("action=") for argument in arguments):
        return list(arguments)
    if not arguments or arguments[0] not in actions:
        raise ConfigError(f"say what to do: {' or '.join(f'randlora {verb} {action}' for action in actions)}")
    return [f"action={arguments[0]}", *arguments[1:]]


def _is_word(argument: str) -> bool:
    return "=" not in argument and not argument.startswith(("-", "~"))


def _quoted(name: str, word: str) -> str:
    """Return an override for a word that may hold what Hydra's grammar would read as more, such as a path."""
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


def _check_launch(verb: str, arguments: Sequence[str], processes: Processes) -> None:
    """Raise ConfigError where several processes were started for what one does."""
    if processes.alone:
        return
    if verb != "run" or any(argument.partition("=")[0] in HYDRA_FLAGS for argument in arguments):
        several = verb in ("run", "sweep")
        hint = "; for several GPUs start one for each, with CUDA_VISIBLE_DEVICES and a share of the cells" * several
        raise ConfigError(
            f"{processes.count} processes were started, and only a single 'run' is carried out by several: start this "
            f"without torchrun or accelerate launch{hint}"
        )


def _start(module: ModuleType, overrides: Sequence[str]) -> int:
    config = compose(module.CONFIG, overrides, several=getattr(module, "SEVERAL", ()))
    missing = [str(key) for key in config if OmegaConf.is_missing(config, key)]
    if missing:
        known = ", ".join(sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
        hint = f"; tables: {known}" if "table" in missing else ""
        raise ConfigError(f"give {', '.join(f'{key}=…' for key in missing)}{hint}")
    return int(module.main(config))


def _job(module: ModuleType, overrides: Sequence[str]) -> int:
    """Return the exit code of one job of a multirun."""
    try:
        return _start(module, overrides)
    except _known_errors() as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _known_errors() -> tuple[type[Exception], ...]:
    from randlora.backbones.errors import WeightsError
    from randlora.data.errors import DataError
    from results.record import RecordError
    from results.store import StoreError
    from results.table import TableError
    from runners.launchers import WorkerError

    return (ConfigError, DataError, RecordError, StoreError, TableError, WeightsError, WorkerError)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return (
        "randlora: compare parameter-efficient fine-tuning methods at equal budgets.\n\n"
        "usage: randlora VERB [group=choice] [group.field=value] ...\n\n"
        + "\n".join(lines)
        + "\n\nrandlora VERB --help shows what a verb does, with examples."
    )


def _help(module: ModuleType) -> str:
    config = primary_config(module.CONFIG)
    groups = [str(next(iter(entry))) for entry in config.get("defaults", []) if not isinstance(entry, str)]
    lines = [(module.__doc__ or "").strip(), ""]
    plain = [group for group in dict.fromkeys(groups) if "@" not in group]
    if plain:
        lines.append("Config groups (choose with group=choice, change a field with group.field=value):")
        for group in plain:
            choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
            lines.append(f"  {group:<10} {', '.join(choices)}")
    fields = [f"{name}={_value(config, name)}" for name in map(str, config) if _is_field(config, name)]
    if fields:
        lines.append(f"Fields: {', '.join(fields)}")
    if flags := getattr(module, "FLAGS", {}):
        lines.append(f"Flags: {', '.join(f'{flag} (for {override})' for flag, override in flags.items())}")
    lines.append("Hydra's flags work: -m (multirun), --cfg job (print the configuration), --info.")
    return "\n".join(lines)


def _is_field(config: DictConfig, key: str) -> bool:
    if key in ("defaults", "hydra"):
        return False
    return OmegaConf.is_missing(config, key) or not OmegaConf.is_config(config[key])


def _value(config: DictConfig, key: str) -> str:
    return "…" if OmegaConf.is_missing(config, key) else str(config[key])


if __name__ == "__main__":
    raise SystemExit(main())
