"""What the verbs that measure have in common: settings to check, files to write, and a page that shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from runners.compose import ConfigError, check_seed
from runners.machine import ROOT

RESULTS = ROOT / "results" / "bench"


def check_settings(config: DictConfig, *, whole: Sequence[str], flags: Sequence[str] = ("publish",)) -> None:
    """Check the seed, the time, the name, numbers that are ``whole`` and ``flags`` of a verb that measures.

    Raises:
        ConfigError: naming the first setting that cannot be meant, and what is valid.
    """
    check_seed(config)
    for name in whole:
        if isinstance(config[name], bool) or not isinstance(config[name], int) or config[name] < 1:
            raise ConfigError(f"{name}={config[name]}: valid: a whole number of 1 or more")
    if isinstance(config.seconds, bool) or not isinstance(config.seconds, int | float) or config.seconds <= 0:
        raise ConfigError(f"seconds={config.seconds}: valid: a number above 0")
    if config.name is not None and not re.fullmatch(r"[A-Za-z0-9_.-]+", str(config.name)):
        raise ConfigError(f"name={config.name}: valid: letters, digits, dots, dashes and underscores")
    for name in flags:
        if not isinstance(config[name], bool):
            raise ConfigError(f"{name}={config[name]}: valid: true or false")


def write_folders(
    benchmark: Any, write_all: Callable[[Any, Path], tuple[Path, ...]], config: DictConfig, *, published: Path
) -> list[Path]:
    """Write the files of a benchmark where the config asks for them, print their paths and return the folders.

    Raises:
        StoreError: if the disk refuses.
    """
    folders = [Path(str(config.to)).expanduser() if config.to is not None else RESULTS / benchmark.name]
    folders += [published / benchmark.name] if config.publish else []
    for folder in folders:
        print("\n".join(str(path) for path in write_all(benchmark, folder)))
    return folders


def conclude(
    benchmark: Any, config: DictConfig, *, record: ModuleType, tables: ModuleType, published: Path, page: Path
) -> None:
    """Print the tables of a benchmark, write its files, and publish them where the config asks for it.

    Args:
        benchmark: what was measured.
        config: of the verb.
        record: the module that writes `name.json`.
        tables: the module that renders `name.md` and `name.csv`.
        published: folder of what is committed.
        page: the page of the documentation that shows it.

    Raises:
        StoreError: if the disk refuses.
    """
    from results.files import write_text

    def write_all(benchmark: Any, folder: Path) -> tuple[Path, ...]:
        return (
            record.write(benchmark, folder / f"{benchmark.name}.json"),
            write_text(folder / f"{benchmark.name}.md", tables.markdown(benchmark)),
            write_text(folder / f"{benchmark.name}.csv", tables.csv(benchmark)),
        )

    print(tables.markdown(benchmark))
    write_folders(benchmark, write_all, config, published=published)
    if config.publish:
        refresh(page, published=published)


def refresh(page: Path, *, published: Path) -> None:
    """Put the published tables into a page of the documentation, if it is there."""
    from results.bench_page import fill
    from results.files import write_text

    if page.is_file():
        write_text(page, fill(page.read_text(encoding="utf-8"), published))
        print(page)
