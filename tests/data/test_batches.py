from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_images import ROOT

from randlora.data import augment as augment_module
from randlora.data import batches as batches_module
from randlora.data.augment import Augmentation, augment, bicubic, normalise
from randlora.data.batches import BatchPlan, epoch_order
from randlora.data.images import ImageDataset


def plan(**changes: Any) -> BatchPlan:
    fields: dict[str, Any] = {
        "n": 50,
        "batch_size": 16,
        "epochs": 3,
        "min_steps_per_epoch": 0,
        "seed": 1,
        "replacement": False,
    }
    return BatchPlan(**{**fields, **changes})


def test_every_epoch_is_a_permutation_of_its_own_and_keeps_the_last_batch() -> None:
    batches = plan()
    assert (batches.steps_per_epoch, batches.total_steps) == (4, 12)
    steps = [batches.indices(step) for step in range(12)]
    assert [len(step) for step in steps] == [16, 16, 16, 2] * 3
    epochs = [torch.cat(steps[4 * epoch : 4 * epoch + 4]) for epoch in range(3)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(50))
    assert not torch.equal(epochs[0], epochs[1])


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    torch.manual_seed(0)
    late = plan().indices(9)
    torch.manual_seed(1)
    assert torch.equal(plan().indices(9), late)
    assert not torch.equal(plan(seed=2).indices(9), late)
    # More epochs, as after a resume with a longer schedule, change no earlier batch.
    assert torch.equal(plan(epochs=30).indices(9), late)


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def count(n: int, epoch: int, seed: int, *, replacement: bool) -> torch.Tensor:
        drawn.append(epoch)
        return epoch_order(n, epoch, seed, replacement=replacement)

    monkeypatch.setattr(batches_module, "epoch_order", count)
    batches = plan(seed=77)
    steps = [batches.indices(step) for step in range(12)]
    assert drawn == [0, 1, 2]
    steps[0].zero_()  # what a caller does to its indices stays with it
    assert torch.equal(batches.indices(0), epoch_order(50, 0, 77)[:16])
    assert torch.equal(torch.cat(steps[4:8]), epoch_order(50, 1, 77))


@pytest.mark.parametrize(
    ("n", "repeats", "steps"),
    [
        (160, 1, 10),  # 10 batches of 16: enough
        (159, 2, 20),  # 9.94 batches: int(10 / 9.94) + 1 = 2 repeats, 318 samples
        (80, 3, 15),  # 5 batches: int(2) + 1
        (10, 17, 11),  # 0.625 batches: int(16) + 1
        (161, 1, 11),
    ],
)
def test_short_epochs_are_oversampled_as_in_the_paper(n: int, repeats: int, steps: int) -> None:
    batches = plan(n=n, min_steps_per_epoch=10)
    assert (batches.repeats, batches.steps_per_epoch) == (repeats, steps)
    if repeats > 1:
        assert repeats == int(10 / (n / 16)) + 1
    epoch = torch.cat([batches.indices(step) for step in range(steps)])
    assert torch.equal(epoch.bincount(minlength=n), torch.full((n,), repeats))


def test_replacement_draws_independently_and_as_often() -> None:
    batches = plan(n=40, min_steps_per_epoch=10, replacement=True)
    epoch = torch.cat([batches.indices(step) for step in range(batches.steps_per_epoch)])
    assert len(epoch) == batches.samples_per_epoch == 40 * batches.repeats
    assert epoch.bincount(minlength=40).unique().numel() > 1
    assert int(epoch.max()) < 40
    assert not torch.equal(epoch_order(40, 0, 1), epoch_order(40, 0, 1, replacement=True))


def test_plan_failures() -> None:
    for field in ("n", "batch_size", "epochs"):
        with pytest.raises(ValueError, match=f"{field} is 0; it starts at 1"):
            plan(**{field: 0})
    with pytest.raises(ValueError, match="min_steps_per_epoch is -1; it starts at 0"):
        plan(min_steps_per_epoch=-1)
    for step in (-1, 12):
        with pytest.raises(IndexError, match=f"no step {step}; this run has steps 0 to 11"):
            plan().indices(step)
        with pytest.raises(IndexError, match="steps 0 to 11"):
            plan().augment_seeds(step)


def test_augment_seeds_differ_between_all_draws_and_runs() -> None:
    batches = plan(n=10, min_steps_per_epoch=5)
    seeds = [seed for step in range(batches.total_steps) for seed in batches.augment_seeds(step)]
    assert len(set(seeds)) == len(seeds) == batches.epochs * batches.samples_per_epoch
    assert all(len(batches.augment_seeds(s)) == len(batches.indices(s)) for s in range(batches.total_steps))
    assert not set(seeds) & set(plan(seed=2).augment_seeds(0))
    # The same draws in batches of another size get the same seeds.
    halves = plan(n=10, min_steps_per_epoch=10, batch_size=8)
    assert halves.repeats == batches.repeats
    assert halves.augment_seeds(0) + halves.augment_seeds(1) == batches.augment_seeds(0)


@pytest.fixture(scope="module")
def images(embedded: Callable[[str], ImageDataset]) -> torch.Tensor:
    return embedded("pets3").load(part="test", size=32, root=ROOT).images[:64]


def altered(images: torch.Tensor, seeds: list[int], **changes: Any) -> torch.Tensor:
    fields: dict[str, Any] = {"crop": "resized", "crop_padding": 4, "crop_scale": (0.5, 1.0), "flip": True}
    return augment(images, seeds, Augmentation(**{**fields, **changes}))


@pytest.mark.parametrize("crop", ["none", "pad", "resized"])
def test_result_of_an_image_depends_on_its_own_seed_only(images: torch.Tensor, crop: str) -> None:
    seeds = list(range(100, 164))
    torch.manual_seed(0)
    before = images.clone()
    whole = altered(images, seeds, crop=crop)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, before)
    torch.manual_seed(1)
    parts = torch.cat([altered(images[i : i + 7], seeds[i : i + 7], crop=crop) for i in range(0, 64, 7)])
    assert torch.equal(parts, whole)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(altered(images[order], [seeds[i] for i in order.tolist()], crop=crop), whole[order])
    assert not torch.equal(altered(images, [seed + 1000 for seed in seeds], crop=crop), whole)


def test_flip_mirrors_about_half_and_nothing_else(images: torch.Tensor) -> None:
    flipped = altered(images, list(range(64)), crop="none")
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    same = (flipped == images).flatten(1).all(dim=1)
    assert bool((mirrored ^ same).all())
    assert 20 < int(mirrored.sum()) < 44
    assert torch.equal(altered(images, list(range(64)), crop="none", flip=False), images)


def test_padded_crop_shifts_by_up_to_the_padding_over_black(images: torch.Tensor) -> None:
    image = images[:1]
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))[0]
    windows = {
        padded[:, top : top + 32, left : left + 32].contiguous().numpy().tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    cropped = altered(image.expand(400, -1, -1, -1), list(range(400)), crop="pad", crop_padding=2, flip=False)
    seen = {windows[one.numpy().tobytes()] for one in cropped}
    assert len(seen) == 25


def test_resized_crop_equals_pillow_cropping_and_resizing(images: torch.Tensor) -> None:
    """A search over all crops finds, for each result, one that Pillow turns into the same image within 1 of 255."""
    from PIL import Image

    for index in range(6):
        result = altered(images[index : index + 1], [index], flip=False, crop_scale=(0.5, 0.8))[0].int()
        picture = Image.frombytes("RGB", (32, 32), images[index].permute(1, 2, 0).contiguous().numpy().tobytes())
        best = 256
        for height in range(19, 33):
            for width in range(19, 33):
                if not (0.72 < width / height < 1.39 and 0.47 * 1024 < width * height < 0.83 * 1024):
                    continue
                for top in range(33 - height):
                    for left in range(33 - width):
                        part = picture.crop((left, top, left + width, top + height))
                        resized = part.resize((32, 32), Image.Resampling.BICUBIC).tobytes()
                        pixels = torch.frombuffer(bytearray(resized), dtype=torch.uint8).view(32, 32, 3)
                        best = min(best, int((pixels.permute(2, 0, 1).int() - result).abs().max()))
        assert best <= 1


@pytest.mark.parametrize("flip", [False, True])
def test_large_images_enlarged_one_by_one_are_those_of_the_matrix_products(
    embedded: Callable[[str], ImageDataset], monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    large = embedded("pets3").load(part="test", size=80, root=ROOT).images[:24]
    seeds = list(range(24))
    one_by_one = altered(large, seeds, flip=flip)
    monkeypatch.setattr(augment_module, "DENSE_PIXELS", 80)
    products = altered(large, seeds, flip=flip)
    assert not torch.equal(one_by_one, products)  # so it was another computation
    difference = (one_by_one.int() - products.int()).abs()
    assert int(difference.max()) <= 2
    assert float((difference > 0).float().mean()) < 0.01


def test_resized_crop_of_the_whole_image_is_the_image(images: torch.Tensor) -> None:
    ratio_free = altered(images, list(range(64)), crop_scale=(1.0, 1.0), flip=False)
    # At full area only a square fits, which is the image; other ratios fall back to it.
    assert torch.equal(ratio_free, images)


def test_enlarging_takes_the_weights_of_the_filter_over_all_pixels_of_the_crop() -> None:
    """Every crop of 32 pixels, to the bit: four taps hold all that the filter has."""
    size = 32
    crops = [(start, length) for length in range(1, size + 1) for start in range(size - length + 1)]
    starts, lengths = torch.tensor(crops, dtype=torch.float64).unbind(1)
    pixel = torch.arange(size, dtype=torch.float64)
    centres = starts[:, None] + (pixel + 0.5) * (lengths / size)[:, None]
    distance = (pixel + 0.5 - centres[:, :, None]).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights * ((pixel >= starts[:, None]) & (pixel < (starts + lengths)[:, None]))[:, None, :]
    expected = (weights / weights.sum(dim=-1, keepdim=True)).float()
    assert torch.equal(bicubic(starts, lengths, size=size), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "centre"}, r"crop='centre'.*\('none', 'pad', 'resized'\)"),
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"crop_scale": (0.0, 1.0)}, "0 < low <= high <= 1"),
        ({"crop_scale": (0.8, 0.5)}, "0 < low <= high <= 1"),
    ],
)
def test_augmentation_failures(images: torch.Tensor, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        altered(images[:2], [1, 2], **changes)


def test_augment_refuses_other_shapes(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="1 seeds for images of shape"):
        altered(images[:2], [1])
    with pytest.raises(ValueError, match="give square images"):
        altered(images[:2, :, :16], [1, 2])


def test_normalise_scales_and_shifts_each_channel() -> None:
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    result = normalise(image, (0.5, 0.5, 0.1), (0.5, 0.25, 0.1))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.flatten(), torch.tensor([-1.0, 2.0, 1.0]))
    for mean, std in (((0.5,), (0.5,)), ((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))):
        with pytest.raises(ValueError, match="3 numbers each, those of std above 0"):
            normalise(image, mean, std)
