from __future__ import annotations

from typing import Any

import pytest

from results.config_diff import changes, shortened


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 7.0}}, {"a": {"b": 1.0}}, [("a.b", "7.0", "1.0")]),
        ({"a": 1}, {"a": 1.0}, [("a", "1", "1.0")]),
        ({"a": None}, {}, [("a", "null", None)]),
        ({}, {"a": None}, [("a", None, "null")]),
        ({"a": ["x", "y"]}, {"a": ["x", "z"]}, [("a[1]", '"y"', '"z"')]),
        ({"a": ["x"]}, {"a": ["x", "z"]}, [("a", '["x"]', '["x", "z"]')]),
        ({"a": {"b": 1}}, {"a": "b"}, [("a", '{"b": 1}', '"b"')]),
        ({"a": ("x",)}, {"a": ["x"]}, []),
    ],
)
def test_changes(old: Any, new: Any, expected: list[tuple[str, str | None, str | None]]) -> None:
    assert [(one.field, one.old, one.new) for one in changes(old, new)] == expected


def test_long_values_are_cut() -> None:
    assert shortened([1, 2]) == "[1, 2]"
    assert len(shortened(list(range(1000)))) == 60
