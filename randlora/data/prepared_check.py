"""Holding a prepared dataset to its source and its description: numbers of images, and the draw of a random split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from randlora.data.errors import DataError
from randlora.data.prepared_manifest import APART, Manifest, remedy
from randlora.data.prepared_parts import pools_of
from randlora.data.prepared_stamp import source_stamp, source_state
from randlora.data.splits import RandomSplits, split_digest

if TYPE_CHECKING:
    from randlora.data.images import ImageDataset
    from randlora.data.prepared import Prepared


def is_current(prepared: Prepared, dataset: ImageDataset, root: Path) -> bool:
    """Return whether the local files that a dataset was prepared from are unchanged; true where they are not here.

    Where times or names moved, the digests of files decide, as far as the source has them.
    """
    stamp = source_stamp(dataset.chosen, root)
    if stamp is None or stamp == prepared.manifest.stamp:
        return True
    try:
        states = {}
        for name, parts in pools_of(dataset).items():
            raw = dataset.open_pool(next(iter(parts.values())).part, root=root)
            states[name] = source_state(dataset.chosen, raw, root=root)
    except DataError:
        return False
    return states == {name: pool.source for name, pool in prepared.manifest.pools.items()}


def check_sizes(prepared: Prepared, dataset: ImageDataset) -> None:
    """Hold a prepared dataset to the numbers of images that ``sizes`` states, and its training part to all classes.

    Raises:
        DataError: if it does not fit, with the numbers found and stated.
    """
    for problem in _size_problems(prepared, dataset):
        raise DataError(
            f"{problem}; correct sizes (null: not checked), or take a complete source: {remedy(prepared.folder)}"
        )
    train = prepared.parts["train"]
    if 0 in train.per_class:
        dataset.check("train", per_class=train.per_class, n_skipped=len(train.skipped))


def description_problems(prepared: Prepared, dataset: ImageDataset) -> tuple[str, ...]:
    """Return in what a prepared dataset differs from its description, a sentence each; none if all is well.

    Looked at are the numbers of images that ``sizes`` states, and the digest of a random split, drawn again from the
    numbers of images of each class. The digests of the arrays are for ``Prepared.problems``.
    """
    found = _size_problems(prepared, dataset)
    rule = dataset.splits
    if isinstance(rule, RandomSplits) and rule.digest is not None:
        drawn = _drawn_again(prepared.manifest, rule)
        if drawn not in (rule.digest, None):
            found.append(f"dataset {dataset.name}: the split drawn again is {drawn}, splits.digest pins {rule.digest}")
    return tuple(found)


def _size_problems(prepared: Prepared, dataset: ImageDataset) -> list[str]:
    found = []
    for part, stored in prepared.parts.items():
        count, stated = stored.images + len(stored.skipped), dataset.size_of(part)
        if stated is not None and count != stated:
            found.append(f"{dataset.where(part)}: {count:,} images were prepared, sizes states {stated:,}")
    return found


def _drawn_again(manifest: Manifest, rule: RandomSplits) -> str | None:
    """Return the digest of a split from the prepared images; None where some were left out, whose classes are lost."""
    if any(pool.skipped for pool in manifest.pools.values()):
        return None
    apart = (APART, "validation", "test")
    counts = [sum(of_class) for of_class in zip(*(manifest.parts[name].per_class for name in apart), strict=True)]
    try:
        return split_digest(rule, counts if rule.per_class else [sum(counts)])
    except DataError as error:
        return f"none ({error})"
