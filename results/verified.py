"""The config of a record that was read and checked before, read again only when somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class VerifiedConfig(Mapping[str, Any]):
    """A config known by the id that its text has; `load` reads it when it is first looked at.

    The id is a digest of the config, so whatever `load` finds under this id is this config.
    """

    def __init__(self, id: str, load: Callable[[], Mapping[str, Any]]) -> None:
        self.id = id
        self._load = load
        self._config: Mapping[str, Any] | None = None

    def __getitem__(self, key: str) -> Any:
        return self._loaded()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def __repr__(self) -> str:
        return repr(self._loaded())

    def _loaded(self) -> Mapping[str, Any]:
        if self._config is None:
            self._config = self._load()
        return self._config
