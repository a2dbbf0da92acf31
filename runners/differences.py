"""randlora differences: which methods of a table can be told apart, with intervals, tests and seeds needed.

Every pair of methods at each place of the table, or every method against one. Each difference is tested over datasets,
over seeds and, where the runs kept their predictions, over test samples; p values are corrected for all comparisons
shown. docs/STATISTICS.md says what each means. Also written, as Markdown, CSV, JSON and a picture, to results/tables or
where to= says, as <table>_differences.

Examples:
  randlora differences table=demo
  randlora differences table=demo reference=LoRA
  randlora differences table=micro_clip reference=LoRA records=results/published/micro_clip/records
  randlora differences table=micro_clip over=datasets "where={data: [16 shots]}"
  randlora differences table=demo format=json | jq '.comparisons[] | select(.verdict == "better")'
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from omegaconf import DictConfig

from results import differences_forms
from results.comparing import QUESTIONS, Question
from results.differences import Differences, compare_rows
from results.files import write_atomically, write_text
from results.forest import draw_forest
from results.outcomes import OutcomeReader
from results.table import TableError
from runners import tables
from runners.compose import ConfigError
from runners.formats import check_format, newer_text, problems_text
from runners.scanning import scan_records

CONFIG = "differences"
FORMATS = {
    "text": differences_forms.text,
    "markdown": differences_forms.markdown,
    "json": differences_forms.json,
    "csv": differences_forms.csv,
}


def main(config: DictConfig) -> int:
    """Print the differences of a table and write them; return 0."""
    check_format(config.format, tuple(FORMATS))
    if config.over is not None and config.over not in QUESTIONS:
        raise ConfigError(f"over={config.over}: valid: {', '.join(QUESTIONS)}")
    where = tables.chosen_labels(config.where)
    planned = tables.plan_table(config.table, where=where)
    store = tables.store_of(config.records)
    scan = scan_records(store)
    for line in (*problems_text(scan.problems), *newer_text(scan.newer)):
        print(line, file=sys.stderr)
    found = compare_rows(
        planned.spec,
        planned.planned,
        scan.records,
        outcomes=OutcomeReader(store),
        reference=None if config.reference is None else str(config.reference),
        over=cast(Question | None, config.over),
    )
    print(FORMATS[config.format](found), end="")
    folder = tables.TABLES if config.to is None else Path(config.to).expanduser()
    _write(found, folder, f"{planned.spec.name}{'_part' if where else ''}_differences")
    return 0


def _write(found: Differences, folder: Path, name: str) -> None:
    texts = {"md": FORMATS["markdown"], "csv": FORMATS["csv"], "json": FORMATS["json"]}
    forms = [write_text(folder / f"{name}.{suffix}", form(found)).suffix[1:] for suffix, form in texts.items()]
    picture = folder / f"{name}.png"
    try:
        forms.append(write_atomically(picture, lambda path: draw_forest(found, path)).suffix[1:])
    except TableError as error:
        picture.unlink(missing_ok=True)
        print(f"\nno picture: {error}", file=sys.stderr)
    print(f"\nwritten: {folder / name}.{{{','.join(forms)}}}", file=sys.stderr)
