"""Holding a prepared dataset to its description: numbers of images, and the draw that a random split is pinned to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from randlora.data.errors import DataError
from randlora.data.prepared_manifest import Manifest
from randlora.data.splits import RandomSplits, split_digest

if TYPE_CHECKING:
    from randlora.data.images import ImageDataset
    from randlora.data.prepared import Prepared


def description_problems(prepared: Prepared, dataset: ImageDataset) -> tuple[str, ...]:
    """Return in what a prepared dataset differs from its description, a sentence each; none if all is well.

    Looked at are the numbers of images that ``sizes`` states, and the digest of a random split, drawn again from the
    numbers of images of each class. The digests of the arrays are for ``Prepared.problems``.
    """
    found = []
    for part in prepared.parts:
        stored, stated = prepared.manifest.parts[part], dataset.size_of(part)
        count = stored.images + len(stored.skipped)
        if stated is not None and count != stated:
            found.append(f"{dataset.where(part)}: {count:,} images were prepared, sizes states {stated:,}")
    rule = dataset.splits
    if isinstance(rule, RandomSplits) and rule.digest is not None:
        drawn = _drawn_again(prepared.manifest, rule)
        if drawn not in (rule.digest, None):
            found.append(f"dataset {dataset.name}: the split drawn again is {drawn}, splits.digest pins {rule.digest}")
    return tuple(found)


def _drawn_again(manifest: Manifest, rule: RandomSplits) -> str | None:
    """Return the digest of a split from the prepared images; None where some were left out, whose classes are lost."""
    if any(part.skipped for part in manifest.parts.values()):
        return None
    apart = [name for name in manifest.parts if name != "validation" or rule.train_on == "without_validation"]
    counts = [sum(of_class) for of_class in zip(*(manifest.parts[name].per_class for name in apart), strict=True)]
    try:
        return split_digest(rule, counts if rule.per_class else [sum(counts)])
    except DataError as error:
        return f"none ({error})"
