"""Hydra's own flags: several jobs with any of its launchers, in this process or elsewhere, and printing a config."""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from runners.compose import CONF, ConfigError, compose

INTERRUPTED = 130
LOGS = ".submitit"  # where Hydra's submitit launchers keep what their jobs print

Job = Callable[[ModuleType, Sequence[str]], int]


def through_hydra(module: ModuleType, arguments: Sequence[str], *, job: Job, folder: Path) -> int:
    """Let Hydra handle its own flags, and return the worst exit code of the jobs.

    Args:
        module: the verb.
        arguments: what was typed after it.
        job: carries out one job, given its overrides, and returns its exit code. Launchers take it to other processes.
        folder: where Hydra and its launchers write; shared by all computers that carry out jobs.

    Raises:
        ConfigError: if a job does not compose; then none is started.
    """
    import hydra

    overrides = [one for one in arguments if one.startswith("~") or ("=" in one and not one.startswith("-"))]
    multirun = "-m" in arguments or "--multirun" in arguments
    for one in _jobs(overrides) if multirun else [overrides]:
        compose(module.CONFIG, one)
    # files and not a list: a launcher may carry the jobs out in other processes
    codes = folder / f".codes-{secrets.token_hex(4)}"
    own = [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
    flags = [argument for argument in arguments if argument not in overrides]
    typed = sys.argv
    task = _task(module, job=job, codes=codes, typed=typed)
    # argparse takes the overrides in one piece only, so they come before the flags
    sys.argv = ["randlora", *own, "hydra.run.dir=.", "hydra/job_logging=disabled", *overrides, *flags]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=module.CONFIG)(task)()
        away = any(one.startswith("hydra/launcher=submitit") for one in overrides)
        return _worst(codes, folder / LOGS if away else None)
    finally:
        sys.argv = typed
        shutil.rmtree(codes, ignore_errors=True)


def _task(module: ModuleType, *, job: Job, codes: Path, typed: list[str]) -> Callable[[Any], None]:
    """Return what Hydra calls for each job, in whatever process its launcher chose."""

    def task(_: object) -> None:
        from hydra.core.hydra_config import HydraConfig

        if INTERRUPTED in (code for code, _ in _ended(codes)):  # one interruption ends the whole multirun
            return
        sys.argv = typed  # what records state as the command
        overrides = [str(override) for override in HydraConfig.get().overrides.task]
        code = job(module, overrides)
        codes.mkdir(parents=True, exist_ok=True)
        (codes / f"{secrets.token_hex(8)}.json").write_text(json.dumps([code, overrides]), encoding="utf-8")

    return task


def _ended(codes: Path) -> list[tuple[int, list[str]]]:
    return [(code, job) for path in sorted(codes.glob("*.json")) for code, job in [json.loads(path.read_text())]]


def _worst(codes: Path, logs: Path | None) -> int:
    """Return the worst exit code; where jobs print into files, say which failed and where these files are."""
    ended = _ended(codes)
    bad = [" ".join(job) for code, job in ended if code != 0]
    if bad and logs is not None:
        for job in bad:
            print(f"failed: {job}", file=sys.stderr)
        print(f"what the jobs printed: {logs}", file=sys.stderr)
    return max((code for code, _ in ended), default=0)


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Return the override lists of the jobs of a multirun."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()  # knows the choices that glob(...) stands for
        try:
            parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
        except OverrideParseException as error:
            raise ConfigError(f"cannot read the override {error.override!r}") from error
        values = [
            [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
            if one.is_sweep_override()
            else [str(one.input_line)]
            for one in parsed
        ]
    for one, found in zip(parsed, values, strict=True):
        if not found:
            raise ConfigError(f"{one.input_line} matches nothing")
    return [list(job) for job in itertools.product(*values)]
