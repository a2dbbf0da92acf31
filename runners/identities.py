"""The run ids of override lists, kept beside the records so that composing thousands of configs is done once.

`<results>/.planned` is a cache and no more. It holds for what contents of ``conf/``, what code and what libraries it
was made; under any other it is ignored and made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import hydra
import omegaconf
import yaml

from results import cache_file
from results.record import Key
from runners.compose import CONF
from runners.machine import ROOT

NAME = ".planned"
# what turns overrides into an id and a key
_CODE = ("runners/compose.py", "runners/identities.py", "runners/plan.py", "results/codec.py", "results/record.py")


class Identities:
    """The run id and the key of the override lists that were composed before.

    Args:
        root: folder of records; where it does not exist or cannot be written, nothing is kept.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NAME
        rows = cache_file.load(self._path, version=_version(), columns=3)
        self._known = {overrides: (id, key) for overrides, id, key in rows}
        self._more = False

    def get(self, overrides: Sequence[str]) -> tuple[str, Key] | None:
        """Return the id and the key of the run that these overrides compose, None where that is not known."""
        found = self._known.get(_text(overrides))
        return None if found is None else (found[0], Key(**json.loads(found[1])))

    def put(self, overrides: Sequence[str], id: str, key: Key) -> None:
        """Keep the id and the key of the run that these overrides compose."""
        self._known[_text(overrides)] = id, json.dumps(vars(key))
        self._more = True

    def save(self) -> None:
        """Write what was not known before; where the folder cannot be written, nothing happens."""
        if self._more:
            cache_file.save(
                self._path, ((overrides, *one) for overrides, one in self._known.items()), version=_version()
            )
            self._more = False


def _text(overrides: Sequence[str]) -> str:
    return json.dumps(list(overrides))


@cache
def _version() -> str:
    """Return a digest of whatever decides the id of an override list."""
    digest = hashlib.sha256(f"{hydra.__version__} {omegaconf.__version__} {yaml.__version__}".encode())
    for path in (*sorted(CONF.rglob("*.yaml")), *(ROOT / name for name in _CODE)):
        text = path.read_bytes()
        digest.update(f"{path.name} {path.parent.name} {len(text)}\n".encode())
        digest.update(text)
    return f"planned runs {digest.hexdigest()[:16]}"
