"""What a record says about the state of the checkout it comes from."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runners import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with code, a document and a published table, as the root of the suite."""
    for name in ("code.py", "README.md", "docs/page.md", "results/published/demo/demo.md", "results/table.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.git.cache_clear()
    yield tmp_path
    provenance.git.cache_clear()


def test_a_clean_checkout_has_nothing_uncommitted(checkout: Path) -> None:
    (checkout / "untracked.py").write_text("new\n", encoding="utf-8")
    assert provenance.uncommitted() is False


@pytest.mark.parametrize("name", ["README.md", "docs/page.md", "results/published/demo/demo.md"])
def test_documents_and_published_results_change_no_number(checkout: Path, name: str) -> None:
    (checkout / name).write_text("two\n", encoding="utf-8")
    assert provenance.uncommitted() is False


@pytest.mark.parametrize("name", ["code.py", "results/table.py"])
def test_changed_code_is_uncommitted(checkout: Path, name: str) -> None:
    (checkout / name).write_text("two\n", encoding="utf-8")
    assert provenance.uncommitted() is True


def test_outside_a_repository_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.git.cache_clear()
    assert provenance.uncommitted() is None
    provenance.git.cache_clear()
