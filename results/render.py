"""Tables as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import contextlib
import csv as csv_module
import io
import json as json_module
import re
from dataclasses import replace
from pathlib import Path

from results.files import write_atomically, write_text
from results.legend import caption, footnotes, legend
from results.plot import draw
from results.rollup import Table
from results.sheet import Grid, Markup, Spread, lay_out
from results.table import TableError
from results.tidy import as_document, as_lines


def markdown(table: Table, *, spread: Spread = "std") -> str:
    """Return the table as GitHub Markdown that is as readable in a terminal."""
    markup = replace(_MARKDOWN, spread=spread)
    parts = [f"### {markup.escape(table.spec.title)}"]
    parts += [markup.escape(table.spec.note)] if table.spec.note else []
    parts.append(caption(table, markup))
    for grid in lay_out(table, markup):
        parts += [f"#### {grid.title}"] if grid.title else []
        parts.append(_markdown_grid(grid))
    parts += ["  \n".join(footnotes(table, markup)), "  \n".join(legend(table, markup))]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(table: Table, *, spread: Spread = "std") -> str:
    """Return the table as LaTeX `table` floats, one per grid, that need the package booktabs only."""
    markup = replace(_LATEX, spread=spread)
    grids = lay_out(table, markup)
    title = " ".join(filter(None, (_sentence(table.spec.title), table.spec.note)))
    under = (*footnotes(table, markup), " ".join(legend(table, markup)))
    floats = []
    for index, grid in enumerate(grids):
        first, last = index == 0, index == len(grids) - 1
        text = f"{_LATEX.escape(title)} {caption(table, markup)}" if first else _LATEX.escape(table.spec.title)
        text += f" {grid.title}." if grid.title else ""
        label = table.spec.name if first else f"{table.spec.name}-{index}"
        floats.append(_latex_float(grid, caption=text, label=label, under=under if last else ()))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(floats)


def csv(table: Table, *, spread: Spread = "std") -> str:
    """Return one line per entry and average, with numbers in full precision; what does not exist is empty.

    Every spread is in it.
    """
    lines = as_lines(table)
    stream = io.StringIO()
    writer = csv_module.DictWriter(stream, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def json(table: Table, *, spread: Spread = "std") -> str:
    """Return `{name, title, metric, coverage, rows, ...}` in full precision; what does not exist is null.

    Every spread is in it.
    """
    return json_module.dumps(as_document(table), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_all(table: Table, folder: Path, name: str, *, spread: Spread = "std") -> tuple[Path, ...]:
    """Write `name.md`, `.tex`, `.csv`, `.json` and the plot `.png` into `folder`, each whole or not at all.

    Returns what was written. While no row is complete enough for the plot, there is none, and one left from an earlier
    state of the table is removed. Raises StoreError where the disk refuses.
    """
    forms = {"md": markdown, "tex": latex, "csv": csv, "json": json}
    texts = {suffix: form(table, spread=spread) for suffix, form in forms.items()}
    written = [write_text(folder / f"{name}.{suffix}", text) for suffix, text in texts.items()]
    picture = folder / f"{name}.png"
    try:
        written.append(write_atomically(picture, lambda path: draw(table, path)))
    except TableError:
        with contextlib.suppress(FileNotFoundError):
            picture.unlink()
    return tuple(written)


def _markdown_grid(grid: Grid) -> str:
    from tabulate import tabulate

    alignment = ["left"] * grid.labels + ["right"] * (len(grid.header) - grid.labels)
    # Without these, tabulate reads "47.3" as a number and strips the padding that marks nothing.
    return tabulate(grid.lines, grid.header, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def _latex_float(grid: Grid, *, caption: str, label: str, under: tuple[str, ...]) -> str:
    lines = [f"{' & '.join(line)} \\\\" for line in grid.lines]
    for index in sorted(grid.blocks - {0}, reverse=True):
        lines.insert(index, "\\midrule")
    return "\n".join(
        [
            "\\begin{table}[t]",
            "\\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', label)}}}",
            f"\\begin{{tabular}}{{{'l' * grid.labels}{'r' * (len(grid.header) - grid.labels)}}}",
            "\\toprule",
            f"{' & '.join(grid.header)} \\\\",
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            *(["\\par\\smallskip\\footnotesize", " \\\\\n".join(under)] if under else []),
            "\\end{table}",
            "",
        ]
    )


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*`<])", r"\\\1", text)


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_CHARACTERS.get(character, character) for character in text)


def _raise_markdown(text: str) -> str:
    return text.translate(str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒"))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


_LATEX_CHARACTERS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "·": "$\\cdot$",
    "±": "$\\pm$",
    "×": "$\\times$",
    "−": "$-$",
    "√": "$\\surd$",
}
_MARKDOWN = Markup(
    escape=_escape_markdown,
    bold=lambda text: f"**{text}**",
    raised=lambda text: f" {_raise_markdown(text)}",
    plus_minus="±",
    minus="−",
    holes={"missing": "·", "failed": "✗", "stale": "~", "skipped": "–", "paper": ""},
    verdicts={"reproduced": "≈", "outside": "≠"},
)
_LATEX = Markup(
    escape=_escape_latex,
    bold=lambda text: f"\\textbf{{{text}}}",
    raised=lambda text: f"$^{{{text}}}$",
    plus_minus="$\\pm$",
    minus="$-$",
    holes={"missing": "$\\cdot$", "failed": "$\\times$", "stale": "$\\sim$", "skipped": "--", "paper": ""},
    verdicts={"reproduced": "$\\approx$", "outside": "$\\neq$"},
)
