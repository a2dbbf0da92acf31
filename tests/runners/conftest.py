from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from lab import ROOT, Lab, Outcome, thin_out, write_table
from language_runs import LanguageLab, write_questions

import runners.cli
import runners.pool
import runners.progress
import runners.sweep
import runners.tables
from randlora.data.cache import DecodedCache
from results.record import Record
from runners.plan import Run

Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def cache() -> DecodedCache:
    return DecodedCache()


@pytest.fixture(autouse=True)
def _decode_once(monkeypatch: pytest.MonkeyPatch, cache: DecodedCache) -> None:
    """Every cache is the session's, the one that a command makes for itself too."""
    get = DecodedCache.get
    monkeypatch.setattr(DecodedCache, "get", lambda _, *args, **kwargs: get(cache, *args, **kwargs))


@pytest.fixture(scope="session", autouse=True)
def _start_at_once() -> Iterator[None]:
    """Let worker processes start with everything loaded: they are copies of one process of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners.pool, "PRELOAD", (*runners.pool.PRELOAD, "warm_clip", "warm_language"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of data sets with fewer pets: real ones, 20 of each breed per split."""
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        file = Path("assets") / "data" / "pets3" / f"{split}.parquet"
        thin_out(ROOT / file, root / file)
    return root


@pytest.fixture
def lab(tmp_path: Path, images: Path) -> Lab:
    return Lab(results=tmp_path / "results", images=images)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> tuple[Lab, Run, Record]:
    """One run of RandLoRA from start to end, for tests that only look at it."""
    lab = Lab(results=tmp_path_factory.mktemp("finished"), images=images)
    run = lab.run("method=randlora")
    return lab, run, lab.execute(run)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few real questions of each task."""
    folder = tmp_path_factory.mktemp("questions")
    write_questions(folder)
    return folder


@pytest.fixture
def lm(tmp_path: Path, questions: Path) -> LanguageLab:
    return LanguageLab(results=tmp_path / "results", images=questions)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = runners.cli.main(arguments)
        out, err = capsys.readouterr()
        return Outcome(code=code, out=out, err=err)

    return call


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Send SIGINT once after so many steps of a verb that shows steps."""

    def arm(steps: int) -> None:
        shown = runners.progress.RunProgress.on_step

        def interrupted(self: runners.progress.RunProgress, done: int, total: int, values: Mapping[str, float]) -> None:
            shown(self, done, total, values)
            if done == steps:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(runners.progress.RunProgress, "on_step", interrupted)

    return arm


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of table files; rendered tables go to ``tables`` beside it."""
    use_folders(tmp_path, monkeypatch)
    return tmp_path / "experiments"


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The results of a whole sweep over the table ``small``, for tests that only look at them or copy them."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        use_folders(folder, patch)
        write_table(folder / "experiments", "small")
        lab = Lab(results=folder / "results", images=images)
        assert runners.cli.main(["sweep", "table=small", "launcher=inline", *lab.machine]) == 0
    return folder


@pytest.fixture
def sweep(lab: Lab, command: Command) -> Command:
    """Sweep the table ``small`` into the lab's results."""
    return lambda *extra: command("sweep", "table=small", "launcher=inline", *lab.machine, *extra)


@pytest.fixture
def whole(experiments: Path, lab: Lab, swept: Path) -> Path:
    """The table ``small``, all of it recorded in the lab's results."""
    write_table(experiments, "small")
    shutil.copytree(swept / "results", lab.results)
    return experiments


def use_folders(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for module in (runners.tables, runners.cli):
        patch.setattr(module, "EXPERIMENTS", folder / "experiments")
    for module in (runners.tables, runners.sweep):
        patch.setattr(module, "TABLES", folder / "tables")
    patch.setattr(runners.cli, "ROOT", folder)


@pytest.fixture
def quiet_hydra() -> Iterator[None]:
    """Take back what Hydra's own entry point does to logging: its handlers write to streams of this test."""
    root = logging.getLogger()
    before: tuple[list[Any], int] = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
