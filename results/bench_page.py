"""Published tables inside a document, between two comments."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"<!-- (?P<what>bench|costs): (?P<name>\S+) -->\n.*?<!-- end of (?P=what) -->", re.DOTALL)


def named(text: str) -> tuple[str, ...]:
    """Return the benchmarks that a document has a place for: `<!-- bench: NAME -->` to `<!-- end of bench -->`.

    `<!-- costs: NAME -->` to `<!-- end of costs -->` is the place of the predictions fitted to one.
    """
    return tuple(match["name"] for match in _BLOCK.finditer(text))


def fill(text: str, published: Path) -> str:
    """Return the document with every such place holding the published table of its benchmark, or that there is none."""

    def table(match: re.Match[str]) -> str:
        what, name = match["what"], match["name"]
        path = published / name / ("costs.md" if what == "costs" else f"{name}.md")
        inside = path.read_text(encoding="utf-8").strip() if path.is_file() else "Not measured yet."
        return f"<!-- {what}: {name} -->\n\n{inside}\n\n<!-- end of {what} -->"

    return _BLOCK.sub(table, text)
