from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import ROOT, png

from randlora.backbones.torchvision_guard import import_torchvision
from randlora.data.augment import Augmentation
from randlora.data.boxes import Box
from randlora.data.decode import open_rgb
from randlora.data.errors import DataError
from randlora.data.images import ImageDataset
from randlora.data.original import Originals, crop_original, random_box, source_rows
from randlora.data.raw import Encoded, RawSplit, listed


def split(rows: list[tuple[Encoded, Any]]) -> RawSplit:
    """A split whose rows can be read once, as those of every source."""

    def once() -> Iterator[tuple[Encoded, Any]]:
        yield from rows

    labels = [label for _, label in rows]
    return RawSplit(class_names=None, digest=None, n_rows=len(rows), read_labels=lambda: labels, rows=once())  # type: ignore[arg-type]


def altering(**changes: Any) -> Augmentation:
    fields: dict[str, Any] = {"crop": "resized", "crop_padding": 0, "crop_scale": (0.5, 1.0), "flip": True}
    return Augmentation(**{**fields, **changes})


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize("size", [32, 224])
def test_crops_are_those_of_torchvision(
    embedded: Callable[[str], ImageDataset], scale: tuple[float, float], size: int
) -> None:
    """Photographs of their own sizes: the same stream gives torchvision and us the same pixels."""
    import_torchvision()
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    rows = embedded("pets3").open("train", root=ROOT).rows
    images = [open_rgb(encoded) for encoded, _ in (next(rows) for _ in range(12))]
    assert len({image.size for image in images}) > 3
    theirs = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    ours = altering(crop_scale=scale)
    flipped = 0
    for seed, image in enumerate(images):
        torch.manual_seed(seed)
        expected = theirs(image)
        torch.manual_seed(99)  # ours rests on its own stream
        found = crop_original(image, seed, ours, size=size)
        assert found.dtype == torch.uint8
        assert torch.equal(found, expected)
        flipped += not torch.equal(found, crop_original(image, seed, altering(crop_scale=scale, flip=False), size=size))
    assert 0 < flipped < 12


@pytest.mark.parametrize("shape", [(400, 40), (40, 400), (30, 31), (500, 375)])
def test_boxes_are_those_of_torchvision_for_long_images_too(shape: tuple[int, int]) -> None:
    import_torchvision()
    from PIL import Image
    from torchvision.transforms import RandomResizedCrop

    image = Image.new("RGB", shape)
    fallbacks = 0
    for seed in range(60):
        torch.manual_seed(seed)
        top, left, height, width = RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3])
        box = random_box(*shape, scale=(0.5, 1.0), generator=torch.Generator().manual_seed(seed))
        assert box == (left, top, left + width, top + height)
        fallbacks += min(shape) * 4 < max(shape) and min(height, width) == min(shape)
    assert fallbacks == (60 if max(shape) == 400 else 0)


def test_palette_and_grey_images_become_rgb_before_they_are_resized(tmp_path: Path) -> None:
    from PIL import Image

    noise = torch.randint(256, (40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    grey = Image.fromarray(noise.numpy())
    for name, image in {"grey": grey, "palette": grey.convert("RGB").quantize(16)}.items():
        file = tmp_path / f"{name}.png"
        image.save(file)
        opened = Originals(listed([(file, 0)], class_names=("noise",)), [0], where="noise").open(0)
        assert (opened.mode, opened.size) == ("RGB", (50, 40))
        found = crop_original(opened, 1, altering(), size=16)
        assert torch.equal(found, crop_original(image.convert("RGB"), 1, altering(), size=16))


def test_images_are_opened_in_any_order_wherever_they_come_from(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "1.png").write_bytes(png(10))
    decoded = Image.new("RGB", (5, 7), (30, 0, 0))
    rows: list[tuple[Encoded, Any]] = [
        (Encoded(bytes=png(0), path="0.png"), 4),
        (Encoded(bytes=None, path=str(tmp_path / "1.png")), 3),
        (Encoded(bytes=b"never wanted", path="2.png"), 9),
        (Encoded(bytes=None, path="image 3", image=decoded), 2),
        (Encoded(bytes=png(40), path="4.png", box=Box(left=1, top=2, right=4, bottom=6)), 1),
    ]
    originals = Originals(split(rows), [4, 0, 3, 1, 0], where="mixed")
    assert (len(originals), originals.labels) == (5, (1, 4, 2, 3, 4))
    for _ in range(2):
        opened = [originals.open(index) for index in (2, 0, 4, 3, 1)]
        assert [image.size for image in opened] == [(5, 7), (3, 4), (6, 6), (6, 6), (6, 6)]
        assert [image.getpixel((0, 0))[0] for image in opened] == [30, 40, 0, 10, 0]


def test_no_more_is_read_than_is_needed() -> None:
    read = []

    def rows() -> Iterator[tuple[Encoded, Any]]:
        for row in range(10):
            read.append(row)
            yield Encoded(bytes=png(row), path=None), row

    raw = RawSplit(class_names=None, digest=None, n_rows=10, read_labels=lambda: [], rows=rows())  # type: ignore[arg-type]
    originals = Originals(raw, [3, 1], where="ten")
    assert read == [0, 1, 2, 3]
    assert originals.labels == (3, 1)


def test_another_process_reads_the_same_images() -> None:
    """Started anew, as workers are where processes cannot be forked."""
    originals = Originals(split([(Encoded(bytes=png(v), path=None), v) for v in (5, 6)]), [1, 0], where="two")
    anew = multiprocessing.get_context("spawn")
    parent, child = anew.Pipe()
    process = anew.Process(target=send_pixels, args=(child, originals))
    process.start()
    assert parent.poll(60)
    assert parent.recv() == [6, 5]
    process.join(60)
    assert [originals.open(index).getpixel((0, 0))[0] for index in range(2)] == [6, 5]


def test_a_source_that_shrank_is_an_error() -> None:
    with pytest.raises(DataError, match="ten: there is no image 7 in the source any more; prepare the dataset again"):
        Originals(split([(Encoded(bytes=png(1), path=None), 0)] * 5), [2, 7, 9], where="ten")


def test_an_image_that_cannot_be_decoded_is_named() -> None:
    whole = png(1, size=(40, 40))
    rows: list[tuple[Encoded, Any]] = [
        (Encoded(bytes=whole[: len(whole) // 2], path="half.png"), 0),
        (Encoded(bytes=None, path=None), 0),
        (Encoded(bytes=None, path="bad.mat", problem="torchvision could not read it"), 0),
    ]
    originals = Originals(split(rows), [0, 1, 2], where="broken")
    for index, reason in enumerate(("half.png", "no file name", "torchvision could not read it")):
        with pytest.raises(DataError, match=f"broken: image {index} .*{reason}.*prepare the dataset again"):
            originals.open(index)


def test_rows_count_what_was_left_out() -> None:
    assert source_rows(4, ()) == [0, 1, 2, 3]
    assert source_rows(4, (0, 3)) == [1, 2, 4, 5]


def send_pixels(pipe: Any, originals: Originals) -> None:
    pipe.send([originals.open(index).getpixel((0, 0))[0] for index in range(len(originals))])
