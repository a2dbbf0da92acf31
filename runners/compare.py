"""randlora compare: two folders of records side by side, such as those of two machines or of two versions of a library.

Runs are matched by id, and by name (method, backbone, dataset, recipe, budget, seed) where only the config differs.
Shown are what differs in where the numbers come from, the metrics of both sides with McNemar's exact test on the test
samples where both keep their predictions, and how many runs are bitwise equal. docs/STATISTICS.md says what each means.

Examples:
  randlora compare results/published/demo/records results/runs
  randlora compare results/runs other/machine/results/runs show=all
  randlora compare results/runs other/runs metric="*/accuracy"        of language models: one metric of every task
  randlora compare results/runs other/runs format=json | jq .counts
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from omegaconf import DictConfig

from results import record_set_forms
from results.outcomes import OutcomeReader
from results.record import Record
from results.record_sets import RecordSets, compare_records
from results.store import RecordStore
from runners.compose import ConfigError, plain
from runners.formats import check_format, newer_text, problems_text
from runners.scanning import scan_records
from runners.tables import store_of

CONFIG = "compare"
WORDS = ("a", "b")
FORMATS = ("text", "markdown", "json", "csv")
SHOW = ("differing", "all")


def main(config: DictConfig) -> int:
    """Print the comparison; return 0 whatever it shows."""
    check_format(config.format, FORMATS)
    if config.show not in SHOW:
        raise ConfigError(f"show={config.show}: valid: {', '.join(SHOW)}")
    asked = plain(config.metric)
    patterns = ["*"] if asked is None else [str(one) for one in (asked if isinstance(asked, list) else [asked])]
    names = str(config.a), str(config.b)
    stores = [store_of(name) for name in names]
    sides = [_records(name, store) for name, store in zip(names, stores, strict=True)]
    found = compare_records(
        *sides, outcomes=(OutcomeReader(stores[0]), OutcomeReader(stores[1])), patterns=tuple(patterns)
    )
    _check_metric(found, patterns)
    if config.format == "json":
        text = record_set_forms.json(found, names=names)
    elif config.format == "csv":
        text = record_set_forms.csv(found)
    else:
        markup = config.format == "markdown"
        text = record_set_forms.page(found, names=names, show=config.show, markup=markup)
    print(text, end="")
    return 0


def _records(name: str, store: RecordStore) -> Mapping[str, Record]:
    if not store.root.is_dir():
        raise ConfigError(f"{name}: there is no such folder; give one of records, such as results/runs")
    scan = scan_records(store)
    for line in (*problems_text(scan.problems), *newer_text(scan.newer)):
        print(line, file=sys.stderr)
    if not scan.records:
        raise ConfigError(f"{name} holds no record; give a folder with one folder per run, such as results/runs")
    return scan.records


def _check_metric(found: RecordSets, patterns: list[str]) -> None:
    both = {name for run in found.matched for name in run.a.metrics if name in run.b.metrics}
    if both and patterns != ["*"] and not any(run.metrics for run in found.matched):
        shown = sorted(both)
        more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
        raise ConfigError(f"metric={','.join(patterns)} is none of {', '.join(shown[:6])}{more}")
