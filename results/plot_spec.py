"""What a table file says about its picture.

```yaml
plot:
  kind: against_data          # averages against the labels of a row axis, one line per label of the last row axis
  along: data                 # that axis
  memory:                     # memory printed in the paper's legends, by label of the last row axis
    file: results/paper/vram_gb.csv
    where: {setting: ViT-B/32 V+L}
    labels: {LoRA-32: LoRA-32, FT: FT}      # label: column of the CSV
```

```yaml
plot:
  kind: against_parameters    # averages against trainable parameters, one line per group of rows
  lines: {LoRA: [LoRA-1, LoRA-2], RandLoRA: [RandLoRA-6]}
  parameters:                 # where the paper's points stand, by label of the last row axis
    file: results/paper/figure1.csv
    where: {panel: a}
    key: label                # column with the labels, and the column with the numbers
    value: parameters
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from results.paper_lines import matching_lines, read_lines

Kind = Literal["against_data", "against_parameters"]
_KINDS: Mapping[str, tuple[str, ...]] = {
    "against_data": ("kind", "along", "memory"),
    "against_parameters": ("kind", "lines", "parameters"),
}


class PlotSpecError(ValueError):
    """The `plot` part of a table file is not valid; the message says what is."""


@dataclass(frozen=True, kw_only=True)
class PlotSpec:
    """A valid `plot` part. `memory_gb` and `parameters` are the paper's, by label of the last row axis."""

    kind: Kind
    along: str
    lines: Mapping[str, tuple[str, ...]]
    memory_gb: Mapping[str, float]
    parameters: Mapping[str, float]

    @classmethod
    def parse(cls, data: Mapping[str, Any], rows: Mapping[str, Sequence[str]]) -> PlotSpec:
        """Read the `plot` part of a table file for row axes with these labels; PlotSpecError or PaperError if wrong."""
        _require(data.get("kind"), tuple(_KINDS), "kind is one of")
        for key in data:
            _require(key, _KINDS[data["kind"]], f"{data['kind']} takes")
        own = tuple(rows)[-1]
        if data["kind"] == "against_data":
            _require(data.get("along"), tuple(rows)[:-1], "along is a row axis before the last:")
            return cls(
                kind="against_data",
                along=data["along"],
                lines={label: (label,) for label in rows[own]},
                memory_gb=_memory(data["memory"], rows[own]) if "memory" in data else {},
                parameters={},
            )
        lines = data.get("lines")
        if not isinstance(lines, dict) or not lines:
            raise PlotSpecError("needs lines, a mapping of names to labels of the last row axis")
        for labels in lines.values():
            for label in labels:
                _require(label, rows[own], f"labels of axis {own}:")
        return cls(
            kind="against_parameters",
            along="",
            lines={name: tuple(labels) for name, labels in lines.items()},
            memory_gb={},
            parameters=_parameters(data["parameters"], rows[own]) if "parameters" in data else {},
        )


def _memory(data: Mapping[str, Any], labels: Sequence[str]) -> dict[str, float]:
    _complete(data, ("file", "where", "labels"), "memory")
    (line,) = _one_line(data)
    found = {}
    for label, column in data["labels"].items():
        _require(label, labels, "labels of the last row axis:")
        _require(column, line, "columns of the CSV:")
        found[label] = _first_number(line[column])
    return found


def _parameters(data: Mapping[str, Any], labels: Sequence[str]) -> dict[str, float]:
    _complete(data, ("file", "where", "key", "value"), "parameters")
    lines = matching_lines(read_lines(data["file"]), data["where"])
    for column in (data["key"], data["value"]):
        _require(column, lines[0], "columns of the CSV:")
    return {line[data["key"]]: _first_number(line[data["value"]]) for line in lines if line[data["key"]] in labels}


def _one_line(data: Mapping[str, Any]) -> list[dict[str, str]]:
    lines = matching_lines(read_lines(data["file"]), data["where"])
    if len(lines) != 1:
        raise PlotSpecError(f"memory.where leaves {len(lines)} lines of {data['file']}; it must leave one")
    return lines


def _first_number(text: str) -> float:
    """Return the number that a text such as `39.5 (r 1024)` starts with."""
    found = re.match(r"\d+(\.\d+)?", text.strip())
    if found is None:
        raise PlotSpecError(f"{text!r} does not start with a number")
    return float(found[0])


def _complete(data: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(data, dict) or set(data) != set(keys):
        raise PlotSpecError(f"{where} needs exactly {', '.join(keys)}")


def _require(name: Any, valid: Any, what: str) -> None:
    if name not in valid:
        raise PlotSpecError(f"does not know {name!r}; {what} {', '.join(valid)}")
