from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_images import ROOT

from randlora.data.augment import Augmentation, augment, normalise
from randlora.data.batches import BatchPlan
from randlora.data.decode import DecodedSplit
from randlora.data.errors import DataError
from randlora.data.feed import Batch, ImageFeed, Look, OriginalFeed, StoredFeed
from randlora.data.images import ImageDataset
from randlora.data.original import Originals
from randlora.data.prefetch import prefetched

CPU = torch.device("cpu")
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
PLAN = BatchPlan(n=60, batch_size=16, epochs=3, min_steps_per_epoch=0, seed=5, replacement=False)
LAST = PLAN.total_steps


def look(crop: Any = "resized", *, flip: bool = True) -> Look:
    return Look(
        augmentation=Augmentation(crop=crop, crop_padding=4, crop_scale=(0.5, 1.0), flip=flip), mean=MEAN, std=STD
    )


@pytest.fixture(scope="module")
def pets(embedded: Callable[[str], ImageDataset]) -> DecodedSplit:
    return embedded("pets3").load(part="train", size=32, root=ROOT)


@pytest.fixture(scope="module")
def chosen() -> torch.Tensor:
    return torch.randperm(300, generator=torch.Generator().manual_seed(2))[:60]


def stored(pets: DecodedSplit, chosen: torch.Tensor, *, resident_bytes: float, crop: Any = "resized") -> StoredFeed:
    return StoredFeed(
        pets.images, chosen, pets.labels[chosen], look=look(crop), device=CPU, resident_bytes=resident_bytes
    )


def all_of(feed: ImageFeed, *, start: int = 0, stop: int = LAST) -> list[Batch]:
    return list(feed.batches(PLAN, start=start, stop=stop))


def same(one: list[Batch], other: list[Batch]) -> bool:
    assert len(one) == len(other) > 0
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
def test_batches_are_the_planned_images_altered_and_normalised(
    pets: DecodedSplit, chosen: torch.Tensor, crop: str
) -> None:
    feed = stored(pets, chosen, resident_bytes=1e9, crop=crop)
    assert (len(feed), feed.resident) == (60, True)
    for step, (images, labels) in enumerate(all_of(feed)):
        positions = chosen[PLAN.indices(step)]
        altered = augment(pets.images[positions], PLAN.augment_seeds(step), look(crop).augmentation)
        assert torch.equal(images, normalise(altered, MEAN, STD))
        assert torch.equal(labels, pets.labels[positions])


def test_where_the_pixels_lie_changes_no_bit(pets: DecodedSplit, chosen: torch.Tensor, tmp_path: Path) -> None:
    size = 60 * 3 * 32 * 32
    kept = stored(pets, chosen, resident_bytes=size)
    read = stored(pets, chosen, resident_bytes=size - 1)
    assert (kept.resident, read.resident) == (True, False)
    expected = all_of(kept)
    assert same(all_of(read), expected)
    np.save(tmp_path / "images.npy", pets.images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r+"))
    assert same(
        all_of(StoredFeed(mapped, chosen, pets.labels[chosen], look=look(), device=CPU, resident_bytes=0)),
        expected,
    )


@pytest.mark.parametrize("resident_bytes", [0, 1e9])
def test_a_run_taken_up_in_the_middle_gets_the_same_batches(
    pets: DecodedSplit, chosen: torch.Tensor, resident_bytes: float
) -> None:
    feed = stored(pets, chosen, resident_bytes=resident_bytes)
    assert same(all_of(feed, start=7), all_of(feed)[7:])


def test_only_the_batches_about_to_be_used_are_read(pets: DecodedSplit, chosen: torch.Tensor) -> None:
    feed = stored(pets, chosen, resident_bytes=0)
    before = threading.active_count()
    batches = feed.batches(PLAN, start=0, stop=LAST)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


@pytest.fixture(scope="module")
def original(embedded: Callable[[str], ImageDataset], chosen: torch.Tensor) -> Originals:
    return Originals(embedded("pets3").open("train", root=ROOT), chosen.tolist(), where="pets3")


def from_originals(original: Originals, *, workers: int, crop: Any = "resized") -> OriginalFeed:
    labels = torch.tensor(original.labels)
    return OriginalFeed(original, labels, size=32, look=look(crop), device=CPU, workers=workers)


def test_the_number_of_workers_changes_no_bit(original: Originals) -> None:
    torch.manual_seed(1)
    expected = all_of(from_originals(original, workers=0), stop=6)
    state = torch.get_rng_state()
    for workers in (1, 2):
        torch.manual_seed(workers)
        assert same(all_of(from_originals(original, workers=workers), stop=6), expected)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from the global stream
    assert same(all_of(from_originals(original, workers=1), start=3, stop=6), expected[3:])


def test_originals_give_other_pixels_of_the_same_images(
    original: Originals, pets: DecodedSplit, chosen: torch.Tensor
) -> None:
    """Where nothing is enlarged both paths agree to the bit; a crop of the original is sharper."""
    for crop in ("none", "pad"):
        expected = all_of(stored(pets, chosen, resident_bytes=1e9, crop=crop), stop=2)
        assert same(all_of(from_originals(original, workers=0, crop=crop), stop=2), expected)
    (one, labels), *_ = all_of(from_originals(original, workers=0), stop=1)
    (other, others), *_ = all_of(stored(pets, chosen, resident_bytes=1e9), stop=1)
    assert torch.equal(labels, others)
    assert not torch.equal(one, other)

    def detail(images: torch.Tensor) -> float:
        return float((images[..., 1:] - images[..., :-1]).abs().mean())

    assert detail(one) > 1.05 * detail(other)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_original_that_became_unreadable_is_named(tmp_path: Path, workers: int) -> None:
    from tiny_images import png

    from randlora.data.raw import listed

    files = [(tmp_path / f"{index}.png", 0) for index in range(60)]
    for file, _ in files:
        file.write_bytes(png(7))
    gone = Originals(listed(files, class_names=("cat",)), range(60), where="dataset tiny, train part")
    files[int(PLAN.indices(1)[3])][0].write_bytes(b"no image")
    batches = from_originals(gone, workers=workers).batches(PLAN, start=0, stop=4)
    assert next(batches)[0].shape == (16, 3, 32, 32)
    with pytest.raises(DataError, match=r"^dataset tiny, train part: image \d+ \(.*\.png\) is unreadable: .*again$"):
        next(batches)


def test_prefetching_keeps_the_order_and_stays_within_its_depth() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * 10

    items = prefetched(make, start=2, stop=30, depth=3)
    assert next(items) == 20
    deadline = time.monotonic() + 30
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [2, 3, 4, 5, 6]  # one used, three ready, one in hand
    assert list(items) == [number * 10 for number in range(3, 30)]


def test_prefetching_raises_in_its_place_and_ends_its_thread() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise DataError("image 3 is gone")
        return number

    before = threading.active_count()
    items = prefetched(make, start=0, stop=9, depth=2)
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(DataError, match="image 3 is gone"):
        next(items)
    assert threading.active_count() == before
