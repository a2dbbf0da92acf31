"""Published tables inside a document, between two comments."""

from __future__ import annotations

import re
from pathlib import Path

from results.files import StoreError

_BLOCK = re.compile(r"<!-- bench: (?P<name>\S+) -->\n.*?<!-- end of bench -->", re.DOTALL)


def named(text: str) -> tuple[str, ...]:
    """Return the benchmarks that a document has a place for: `<!-- bench: NAME -->` to `<!-- end of bench -->`."""
    return tuple(match["name"] for match in _BLOCK.finditer(text))


def fill(text: str, published: Path) -> str:
    """Return the document with every such place holding the published table of its benchmark.

    Raises:
        StoreError: if a place names a benchmark that is not published.
    """

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        path = published / name / f"{name}.md"
        if not path.is_file():
            raise StoreError(f"{name} is not published: {path} is not there; run randlora bench workload={name}")
        return f"<!-- bench: {name} -->\n\n{path.read_text(encoding='utf-8').strip()}\n\n<!-- end of bench -->"

    return _BLOCK.sub(table, text)
