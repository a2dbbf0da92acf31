"""Reading and checking table files; what they hold is described in results/table.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

try:  # libyaml, where PyYAML was built with it: ten times as fast
    from yaml import CBaseLoader as BaseLoader
except ImportError:
    from yaml import BaseLoader  # type: ignore[assignment]

from results.metric_check import MetricError, check_metric
from results.metric_names import same_place, values_of
from results.paper_lines import PaperError
from results.paper_numbers import Paper
from results.plot_spec import PlotSpec, PlotSpecError
from results.table import FACTS, MORE_FACTS, Addition, Footnote, TableError, TableSpec, find_table

_INHERITED = ("metric", "axes", "rows", "columns", "average", "repeat", "layout", "facts", "references")
_PAPER_ONLY = "paper"
_LAYOUTS = ("rows", "blocks")
_REQUIRED = ("title", "metric", "axes", "rows", "columns")
_OPTIONAL = (
    *("note", "fixed", "also", "average", "repeat", "layout", "relative", "facts", "references", "footnotes"),
    *("paper", "plot"),
)


def load_table(path: Path) -> TableSpec:
    """Read and check a table file; TableError for whatever it should not hold, with the file, the key and what may."""
    data = _read(path)
    if isinstance(data, dict) and "like" in data:
        data = _laid_out_like(path, data)
    spec = _Parser(path=path).spec(data)
    try:
        check_metric(spec)
    except MetricError as error:
        raise TableError(f"{path}: {error.key} {error}") from error
    return spec


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_TextLoader)
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not valid YAML: {error}") from error


def _laid_out_like(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Return a table file with what it does not say of its layout taken from another; its axes replace whole axes."""
    other = find_table(str(data["like"]), path.parent)
    base = _read(other)
    if not isinstance(base, dict) or "like" in base:
        raise TableError(f"{path}: like names {other.stem}, which is itself like another or no table; name that one")
    merged = {key: base[key] for key in _INHERITED if key in base} | data
    if isinstance(base.get("axes"), dict) and isinstance(data.get("axes"), dict):
        merged["axes"] = base["axes"] | data["axes"]
    return {key: value for key, value in merged.items() if key != "like"}


class _TextLoader(BaseLoader):
    """YAML in which every scalar is text and a repeated key is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} appears twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


@dataclass(frozen=True, kw_only=True)
class _Parser:
    """Turns parsed YAML into a TableSpec; it holds the path only to name it in errors."""

    path: Path

    def spec(self, data: Any) -> TableSpec:
        self._mapping("the file", data)
        self._known("key", data, _REQUIRED + _OPTIONAL, where="the file")
        missing = [key for key in _REQUIRED if not data.get(key)]
        if missing:
            raise self._error(missing[0], f"is missing or empty; a table needs {', '.join(_REQUIRED)}")
        fixed = self._overrides("fixed", data.get("fixed", []))
        axes, paper_only = self._axes(data["axes"], defaults=values_of(fixed))
        rows, columns, average, repeat = (
            self._choices(key, data.get(key, []), tuple(axes)) for key in ("rows", "columns", "average", "repeat")
        )
        self._check_layout(axes, rows, columns, repeat)
        self._known("axis", average, columns, where="average", among="it averages over axes in columns")
        layout = self._text("layout", data.get("layout", _LAYOUTS[0]))
        self._known("layout", [layout], _LAYOUTS, where="layout")
        if layout == "blocks" and (len(rows) < 2 or not average):
            raise self._error("layout", "blocks needs two row axes or more, and an average")
        labels = {axis: tuple(axes[axis]) for axis in axes}
        shown = {axis: labels[axis] for axis in rows + columns}
        return TableSpec(
            name=self.path.stem,
            title=self._text("title", data["title"]),
            note=self._text("note", data["note"]) if data.get("note") else None,
            metric=self._text("metric", data["metric"]),
            fixed=fixed,
            axes=axes,
            paper_only=paper_only,
            also=self._additions(data.get("also", []), labels),
            rows=rows,
            columns=columns,
            average=average,
            repeat=repeat,
            layout="blocks" if layout == "blocks" else "rows",
            relative=self._relative(data.get("relative", {}), shown),
            facts=self._choices("facts", data.get("facts", list(FACTS)), FACTS + MORE_FACTS),
            references=self._choices(
                "references", data.get("references", []), tuple(label for axis in rows for label in axes[axis])
            ),
            footnotes=self._footnotes(data.get("footnotes", []), shown),
            paper=self._paper(data["paper"], shown, average) if data.get("paper") else None,
            plot=self._plot(data["plot"], {axis: labels[axis] for axis in rows}) if data.get("plot") else None,
            restricted={},
        )

    def _axes(
        self, data: Any, *, defaults: Mapping[str, str]
    ) -> tuple[dict[str, dict[str, tuple[str, ...]]], dict[str, tuple[str, ...]]]:
        axes: dict[str, dict[str, tuple[str, ...]]] = {}
        paper_only: dict[str, tuple[str, ...]] = {}
        for axis, labels in self._mapping("axes", data).items():
            where = f"axes.{axis}"
            named = self._mapping(where, labels)
            paper_only[axis] = tuple(label for label, overrides in named.items() if overrides == _PAPER_ONLY)
            axes[axis] = {
                label: () if label in paper_only[axis] else self._overrides(f"{where}.{label}", overrides)
                for label, overrides in named.items()
            }
            if len(axes[axis]) == len(paper_only[axis]):
                raise self._error(where, "is empty; give it at least one label with runs")
            owners: dict[tuple[tuple[str, ...], ...], str] = {}
            for label, overrides in axes[axis].items():
                own = same_place(overrides, defaults=defaults)
                if label not in paper_only[axis] and (first := owners.setdefault(own, label)) != label:
                    raise self._error(f"{where}.{label}", f"has the same overrides as {first}; they are the same runs")
        return axes, {axis: labels for axis, labels in paper_only.items() if labels}

    def _check_layout(self, axes: Mapping[str, Any], *groups: tuple[str, ...]) -> None:
        uses = Counter(axis for group in groups for axis in group)
        for axis in axes:
            if uses[axis] != 1:
                often = "in none" if not uses[axis] else "more than once"
                raise self._error(f"axes.{axis}", f"is {often} of rows, columns, repeat; name it in exactly one")

    def _relative(self, data: Any, labels: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
        relative = dict(self._mapping("relative", data))
        for axis, label in relative.items():
            self._known("axis", [axis], tuple(labels), where="relative", among="it takes axes of rows and columns:")
            self._known("label", [self._text(f"relative.{axis}", label)], labels[axis], where=f"relative.{axis}")
        return relative

    def _additions(self, data: Any, labels: Mapping[str, tuple[str, ...]]) -> tuple[Addition, ...]:
        return tuple(
            Addition(
                where=self._where("also", one, labels), overrides=self._overrides("also.overrides", one["overrides"])
            )
            for one in self._entries("also", data, ("where", "overrides"))
        )

    def _footnotes(self, data: Any, labels: Mapping[str, tuple[str, ...]]) -> tuple[Footnote, ...]:
        notes = []
        for one in self._entries("footnotes", data, ("text", "where"), optional=("on",)):
            self._known("place", [one.get("on", "cell")], ("cell", "average"), where="footnotes.on")
            notes.append(
                Footnote(
                    text=self._text("footnotes.text", one["text"]),
                    where=self._where("footnotes", one, labels),
                    on_average=one.get("on") == "average",
                )
            )
        return tuple(notes)

    def _where(
        self, key: str, entry: Mapping[str, Any], labels: Mapping[str, tuple[str, ...]]
    ) -> dict[str, tuple[str, ...]]:
        where = self._mapping(f"{key}.where", entry["where"])
        self._known("axis", tuple(where), tuple(labels), where=f"{key}.where")
        return {axis: self._choices(f"{key}.where.{axis}", where[axis], labels[axis]) for axis in where}

    def _entries(
        self, key: str, data: Any, needed: tuple[str, ...], *, optional: tuple[str, ...] = ()
    ) -> list[Mapping[str, Any]]:
        if not isinstance(data, list):
            raise self._error(key, f"must be a list, not {data!r}")
        for one in data:
            self._known("key", tuple(self._mapping(key, one)), needed + optional, where=key)
            if any(name not in one for name in needed):
                raise self._error(key, f"needs {', '.join(needed)} in each of its entries")
        return data

    def _paper(self, data: Any, labels: Mapping[str, tuple[str, ...]], average: tuple[str, ...]) -> Paper:
        try:
            return Paper.parse(self._mapping("paper", data), labels, average=average)
        except PaperError as error:
            raise self._error("paper", str(error)) from error

    def _plot(self, data: Any, labels: Mapping[str, tuple[str, ...]]) -> PlotSpec:
        try:
            return PlotSpec.parse(self._mapping("plot", data), labels)
        except (PlotSpecError, PaperError) as error:
            raise self._error("plot", str(error)) from error

    def _choices(self, key: str, data: Any, valid: tuple[str, ...]) -> tuple[str, ...]:
        chosen = self._list(key, data)
        self._known(key, chosen, valid, where=key)
        return chosen

    def _known(self, kind: str, names: Sequence[str], valid: Sequence[str], *, where: str, among: str = "") -> None:
        unknown = [name for name in names if name not in valid]
        if unknown:
            raise self._error(where, f"does not know {unknown[0]!r}; {among or 'it takes'} {', '.join(valid)}")

    def _overrides(self, key: str, data: Any) -> tuple[str, ...]:
        overrides = self._list(key, data)
        for override in overrides:
            if "=" not in override and not override.startswith("~"):
                raise self._error(key, f"{override!r} is no override; write group=choice or key.path=value")
        return overrides

    def _list(self, key: str, data: Any) -> tuple[str, ...]:
        if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
            raise self._error(key, f"must be a list of texts such as [a, b], not {data!r}")
        if len(set(data)) != len(data):
            raise self._error(key, f"names something twice: {', '.join(data)}")
        return tuple(data)

    def _mapping(self, key: str, data: Any) -> Mapping[str, Any]:
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
            raise self._error(key, f"must be a mapping of names, not {data!r}")
        return data

    def _text(self, key: str, data: Any) -> str:
        if not isinstance(data, str):
            raise self._error(key, f"must be text, not {data!r}")
        return data

    def _error(self, key: str, message: str) -> TableError:
        return TableError(f"{self.path}: {key} {message}")
