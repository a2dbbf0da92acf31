"""Benchmarks on disk: typed documents, written and read as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from results.codec import CodecError, decode, plain
from results.files import StoreError, write_text

Document = TypeVar("Document")


def to_json(benchmark: Any, *, schema: int) -> str:
    """Return a document with every number measured."""
    body = {"schema": schema, **plain(benchmark, where="benchmark")}
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(benchmark: Any, path: Path, *, schema: int) -> Path:
    """Write a document, wholly or not at all, and return its path."""
    return write_text(path, to_json(benchmark, schema=schema))


def read(kind: type[Document], path: Path, *, schema: int, verb: str) -> Document:
    """Read a document that ``randlora <verb>`` wrote.

    Raises:
        StoreError: if the file is not there, or is no benchmark of this kind and schema.
    """
    again = f"measure it again with randlora {verb}"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(body, dict) or body.pop("schema", None) != schema:
            raise StoreError(f"{path} is no benchmark of schema {schema}; {again}")
        return decode(kind, body, where="benchmark")
    except (OSError, json.JSONDecodeError, CodecError) as error:
        raise StoreError(f"cannot read {path} as a benchmark: {error}; {again}") from error
