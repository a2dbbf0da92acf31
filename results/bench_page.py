"""Published tables inside a document, between two comments."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"<!-- bench: (?P<name>\S+) -->\n.*?<!-- end of bench -->", re.DOTALL)


def named(text: str) -> tuple[str, ...]:
    """Return the benchmarks that a document has a place for: `<!-- bench: NAME -->` to `<!-- end of bench -->`."""
    return tuple(match["name"] for match in _BLOCK.finditer(text))


def fill(text: str, published: Path) -> str:
    """Return the document with every such place holding the published table of its benchmark, or that there is none."""

    def table(match: re.Match[str]) -> str:
        path = published / match["name"] / f"{match['name']}.md"
        inside = path.read_text(encoding="utf-8").strip() if path.is_file() else "Not measured yet."
        return f"<!-- bench: {match['name']} -->\n\n{inside}\n\n<!-- end of bench -->"

    return _BLOCK.sub(table, text)
