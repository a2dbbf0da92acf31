"""The words of classes in prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

PLACEHOLDER = "{class}"


def fill(template: str, words: str) -> str:
    """Return the template with ``{class}`` replaced by the words of a class."""
    return template.replace(PLACEHOLDER, words)


def problem_of_classes(classes: Sequence[str]) -> str | None:
    """Return what keeps a list from being the words of classes, or None."""
    if len(classes) < 2:
        return f"has {len(classes)} entries; give the words of at least 2 classes"
    for label, words in enumerate(classes):
        if not isinstance(words, str) or not words.strip():
            return f"entry {label} is {words!r}; give each class non-empty words (quote numbers)"
    repeated = [words for words, count in Counter(classes).items() if count > 1]
    return f"names {repeated[0]!r} twice; every class needs words of its own" if repeated else None


def problem_of_templates(templates: Sequence[str]) -> str | None:
    """Return what keeps a list from being templates of prompts, or None."""
    if not templates:
        return f"is empty; give at least one, such as 'a photo of a {PLACEHOLDER}.'"
    for template in templates:
        if not isinstance(template, str) or PLACEHOLDER not in template:
            return f"{template!r} lacks {PLACEHOLDER}; write for example 'a photo of a {PLACEHOLDER}.'"
    return None
