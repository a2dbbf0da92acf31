"""randlora forget: remove runs with all they left, after asking.

Says what it would remove and asks for the number of runs; yes=true does not ask. Runs that somebody is at are kept, and
so are records of a newer version of the suite. Of a table, state= takes those in one state: stale takes the records of
before, made under the same name with another configuration; unfinished what interrupted runs have left, checkpoints
among it; corrupt what cannot be read. Without state=, stale and unfinished ones stay.

Examples:
  randlora forget table=demo state=failed
  randlora forget table=demo state=stale yes=true
  randlora forget table=clip_vit_b32 "where={method: [LoRA-32], dataset: [DTD]}"
  randlora forget 'key={method: "lora rank=4", dataset: dtd}'      every record with these parts in its name
  randlora forget id=0123456789abcdef records=results/runs
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from omegaconf import DictConfig

from results.claims import Claims
from results.removal import clear_up, remove_folder
from runners.compose import ConfigError
from runners.doomed import Doomed, of_ids, of_key, of_table
from runners.export import as_typed
from runners.formats import newer_text, size_text
from runners.scanning import scan_records
from runners.tables import chosen_labels, store_of

CONFIG = "forget"
STATES = ("ok", "failed", "skipped", "stale", "corrupt", "unfinished")
SHOWN = 5
REFUSED = 2


def main(config: DictConfig) -> int:
    """Remove runs; return 0 if nothing is left to remove, 1 if some are kept or it was declined, 2 if nobody agreed."""
    _check(config)
    store = store_of(config.records)
    scan = scan_records(store)
    if config.table:
        found = of_table(config.table, store, scan, where=chosen_labels(config.where), state=config.state)
    elif config.key is not None:
        found = of_key(config.key, store, scan, state=config.state)
    else:
        found = of_ids(as_typed(config, "id").strip("[]").split(","), store, scan)
    kept = {one.id: scan.newer[one.id] for one in found if one.id in scan.newer}
    for line in newer_text(kept):
        print(line, file=sys.stderr)
    found = [one for one in found if one.id not in kept]
    if not found:
        print(f"nothing to remove from {config.records}", file=sys.stderr)
        return 1 if kept else 0
    print(_listed(found, config.records))
    if not config.yes:
        if not sys.stdin.isatty():
            print("nothing is removed: this is no terminal to ask on; yes=true removes them", file=sys.stderr)
            return REFUSED
        if _answer() != str(len(found)):
            print("nothing is removed", file=sys.stderr)
            return 1
    return _remove(found, Claims(store.root, worker="randlora forget")) or int(bool(kept))


def _answer() -> str:
    try:
        return input("type the number of runs to remove them: ").strip()
    except EOFError:
        return ""


def _check(config: DictConfig) -> None:
    given = [name for name in ("table", "key", "id") if config[name] is not None]
    if len(given) != 1:
        raise ConfigError("give one of table=…, key={method: …}, id=…; randlora forget --help has examples")
    if config.where is not None and not config.table:
        raise ConfigError("where= takes labels of a table; give table=… as well")
    valid = STATES if config.table else ("ok", "failed", "skipped") if config.key is not None else ()
    if config.state is not None and config.state not in valid:
        raise ConfigError(f"state={config.state}: valid with {given[0]}=: {', '.join(valid) or 'no state'}")


def _listed(found: Sequence[Doomed], records: str) -> str:
    runs = "1 run" if len(found) == 1 else f"{len(found)} runs"
    lines = [f"{runs} to remove from {records}, {size_text(sum(one.bytes for one in found))}:"]
    lines += [f"  {one.id}  {one.what}  {size_text(one.bytes)}" for one in found[:SHOWN]]
    return "\n".join(lines + ([f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []))


def _remove(found: Iterable[Doomed], claims: Claims) -> int:
    """Remove runs that nobody is at and that are what they were; return 0, or 1 where some are kept."""
    clear_up(claims.folder.parent)
    removed, kept = 0, {}
    for one in found:
        claim = claims.take(one.id)
        if claim is None:
            kept[one.id] = "somebody is at it"
            continue
        try:
            if one.is_unchanged():
                remove_folder(one.folder)
                removed += 1
            else:
                kept[one.id] = "it has changed since it was listed"
        finally:
            claim.release()
    for id, reason in kept.items():
        print(f"kept: {id}: {reason}", file=sys.stderr)
    print(f"{removed} removed, {len(kept)} kept", file=sys.stderr)
    return 1 if kept else 0
