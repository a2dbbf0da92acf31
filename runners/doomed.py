"""Which runs `randlora forget` is to remove."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from results.index import stamp_of
from results.places import PlacedRun
from results.record import Key
from results.removal import size_of
from results.store import RecordStore, Scan
from runners.compose import ConfigError, plain
from runners.identities import Identities
from runners.tables import plan_table

RECORDED = ("ok", "failed", "skipped", "corrupt")


@dataclass(frozen=True, kw_only=True)
class Doomed:
    """A run to remove: its folder, its size in bytes, what it is, and what the file of its record looked like."""

    id: str
    folder: Path
    bytes: int
    what: str
    stamp: str | None

    def is_unchanged(self) -> bool:
        """Return whether the run is there, with the record that it had."""
        return self.folder.exists() and _stamp(self.folder) == self.stamp


def of_table(
    name: str, store: RecordStore, scan: Scan, *, where: Mapping[str, Sequence[str]], state: str | None
) -> list[Doomed]:
    """Return the runs of a table that are in a state; those of :data:`RECORDED` where there is none.

    Raises:
        ConfigError: as of :func:`runners.tables.plan_table`.
    """
    identities = Identities(store.root)
    whole = plan_table(name, identities=identities)
    planned = plan_table(name, where=where, identities=identities) if where else whole
    identities.save()
    runs = planned.states(scan)
    if state == "stale":
        keys = [planned.runs[id].key for id, run in runs.items() if run.state == "stale"]
        # of a part of a table, too: what another part of it asks for is not of before
        old = (id for key in keys for id in scan.records.ids_of(key) if id not in whole.runs)
        return _doomed(dict.fromkeys(old), store, scan)
    corrupt = _corrupt(scan)
    wanted = RECORDED if state is None else (state,)
    return _doomed([id for id, run in runs.items() if _state(run, store, scan, corrupt) in wanted], store, scan)


def of_key(given: object, store: RecordStore, scan: Scan, *, state: str | None) -> list[Doomed]:
    """Return the runs that were recorded with these parts in their key.

    Raises:
        ConfigError: unless ``given`` maps parts of a key to values.
    """
    parts, known = plain(given), [field.name for field in dataclasses.fields(Key)]
    if not isinstance(parts, dict) or not parts or not set(parts) <= set(known):
        raise ConfigError(f"key={given}: valid: some of {', '.join(known)}, such as 'key={{method: lora, seed: 1}}'")
    found = [
        id
        for id, record in scan.records.items()
        if (state is None or record.status == state)
        and all(str(getattr(record.key, name)) == str(value) for name, value in parts.items())
    ]
    return _doomed(found, store, scan)


def of_ids(ids: Iterable[str], store: RecordStore, scan: Scan) -> list[Doomed]:
    """Return the runs with these ids, whatever they left.

    Raises:
        StoreError: for what is no id.
        ConfigError: for a run that has left nothing.
    """
    chosen = list(dict.fromkeys(id.strip().strip("'\"") for id in ids))
    for id in chosen:
        if not store.folder(id).is_dir():
            raise ConfigError(f"id={id}: {store.root} holds nothing of this run")
    return _doomed(chosen, store, scan)


def _state(run: PlacedRun, store: RecordStore, scan: Scan, corrupt: set[str]) -> str | None:
    """Return the state of a run's folder; None where there is none, or it is a newer version's."""
    if run.id in scan.newer:
        return None
    if run.id in corrupt:
        return "corrupt"
    if run.record is None:
        return "unfinished" if store.folder(run.id).is_dir() else None
    return run.record.status  # and not what the table makes of it, which may lack a metric or a reference


def _corrupt(scan: Scan) -> set[str]:
    return {problem.path.parent.name for problem in scan.problems}


def _doomed(ids: Iterable[str], store: RecordStore, scan: Scan) -> list[Doomed]:
    corrupt = _corrupt(scan)
    found = []
    for id in ids:
        folder = store.folder(id)
        what = _what(scan, id) if id in scan.records else "corrupt record" if id in corrupt else "no record"
        found.append(Doomed(id=id, folder=folder, bytes=size_of(folder), what=what, stamp=_stamp(folder)))
    return found


def _what(scan: Scan, id: str) -> str:
    record = scan.records[id]
    key = record.key
    return f"{record.status}: {key.method}, {key.backbone}, {key.dataset}, {key.recipe}, {key.budget}, seed {key.seed}"


def _stamp(folder: Path) -> str | None:
    try:
        return stamp_of((folder / "record.json").stat())
    except OSError:
        return None
