"""Cut the embedded datasets out of larger parquet copies: python assets/make_subsets.py --source FOLDER.

FOLDER holds one folder per dataset with train.parquet, test.parquet (columns image and label, with the feature header
of the datasets library) and meta.json. Images are copied byte for byte. Which ones is decided by a hash of seed and
image, so neither the order of the rows nor the machine matters: the same input gives the same files, byte for byte
(with the same version of pyarrow, which writes its name into them).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SEED = 0
MAX_BYTES = 19_500_000
SPLITS = ("train", "test")
ROWS_PER_GROUP = 500


@dataclass(frozen=True, kw_only=True)
class Subset:
    """One dataset to embed: how many images per class at most, and what to credit."""

    name: str
    per_class: Mapping[str, int]
    credit: str
    citation: str


SUBSETS = (
    Subset(
        name="mnist",
        per_class={"train": 500, "test": 200},
        credit="MNIST, Y. LeCun, C. Cortes, C. J. C. Burges",
        citation="LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition. "
        "Proceedings of the IEEE 86(11), 1998",
    ),
    Subset(
        name="eurosat",
        per_class={"train": 100, "test": 100},
        credit="EuroSAT, P. Helber, B. Bischke, A. Dengel, D. Borth; contains modified Copernicus Sentinel data",
        citation="Helber, Bischke, Dengel, Borth: EuroSAT: A novel dataset and deep learning benchmark for land use "
        "and land cover classification. IEEE JSTARS 12(7), 2019",
    ),
    Subset(
        name="gtsrb",
        per_class={"train": 40, "test": 24},
        credit="GTSRB, Institut für Neuroinformatik, Ruhr-Universität Bochum",
        citation="Stallkamp, Schlipsing, Salmen, Igel: Man vs. computer: Benchmarking machine learning algorithms for "
        "traffic sign recognition. Neural Networks 32, 2012",
    ),
    Subset(
        name="pets3",
        per_class={"train": 100, "test": 100},
        credit="Oxford-IIIT Pet, O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar",
        citation="Parkhi, Vedaldi, Zisserman, Jawahar: Cats and dogs. CVPR 2012",
    ),
    Subset(
        name="fashion_mnist",
        per_class={"train": 400, "test": 200},
        credit="Fashion-MNIST, H. Xiao, K. Rasul, R. Vollgraf (Zalando)",
        citation="Xiao, Rasul, Vollgraf: Fashion-MNIST: A novel image dataset for benchmarking machine learning "
        "algorithms. arXiv:1708.07747, 2017",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all subsets; return 1 with a message, and leave the folder of that dataset alone, if one cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with one folder per dataset")
    parser.add_argument(
        "--destination", type=Path, default=Path(__file__).parent / "data", help="where to write (default: assets/data)"
    )
    options = parser.parse_args(arguments)
    total = 0
    try:
        for number, subset in enumerate(SUBSETS, start=1):
            meta = make_subset(subset, source=options.source, destination=options.destination)
            size = sum(file.stat().st_size for file in (options.destination / subset.name).iterdir())
            total += size
            sizes = " + ".join(f"{meta['splits'][split]} {split}" for split in SPLITS)
            print(f"[{number}/{len(SUBSETS)}] {subset.name}: {sizes} images, {size / 1e6:.2f} MB", flush=True)
    except (OSError, ValueError, KeyError) as error:
        print(f"make_subsets: {subset.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{total / 1e6:.2f} MB in all, of at most {MAX_BYTES / 1e6:.2f}")
    if total > MAX_BYTES:
        print("make_subsets: more than the repository is to hold; lower per_class of a dataset", file=sys.stderr)
        return 1
    return 0


def make_subset(subset: Subset, *, source: Path, destination: Path) -> dict[str, Any]:
    """Write one dataset's parquet files and meta.json; return what meta.json holds.

    Raises:
        OSError: if a source file is missing or a file cannot be written.
        ValueError: if a label is outside the classes, a class is empty, or an image is in both splits.
    """
    origin = json.loads((source / subset.name / "meta.json").read_text(encoding="utf-8"))
    tables = {split: pq.read_table(source / subset.name / f"{split}.parquet") for split in SPLITS}
    digests = {split: [image_digest(image) for image in tables[split]["image"].to_pylist()] for split in SPLITS}
    shared = set(digests["train"]) & set(digests["test"])
    if shared:
        raise ValueError(f"{len(shared)} images are in train and in test")
    chosen = {
        split: select(
            tables[split]["label"].to_pylist(),
            digests[split],
            n_classes=len(origin["classes"]),
            k=subset.per_class[split],
        )
        for split in SPLITS
    }
    folder = destination / subset.name
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        # Row statistics of image bytes would only add to the size; without compression the bytes stay as they are.
        pq.write_table(
            tables[split].take(pa.array(chosen[split])),
            folder / f"{split}.parquet",
            compression="none",
            write_statistics=False,
            row_group_size=ROWS_PER_GROUP,
        )
    meta = describe(subset, origin, folder=folder, sizes={split: len(chosen[split]) for split in SPLITS})
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf-8", newline="\n")
    return meta


def select(labels: Sequence[int], digests: Sequence[str], *, n_classes: int, k: int) -> list[int]:
    """Return the rows of at most ``k`` images per class, those of the smallest digests, in the order of the source."""
    if not set(labels) <= set(range(n_classes)):
        raise ValueError(f"labels {sorted(set(labels) - set(range(n_classes)))} are outside the {n_classes} classes")
    rows: list[int] = []
    for label in range(n_classes):
        own = sorted((digest, row) for row, digest in enumerate(digests) if labels[row] == label)
        if not own:
            raise ValueError(f"class {label} has no image")
        rows += [row for _, row in own[:k]]
    return sorted(rows)


def describe(subset: Subset, origin: Mapping[str, Any], *, folder: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the content of meta.json."""
    limits = ", ".join(f"{subset.per_class[split]} {split}" for split in SPLITS)
    return {
        "classes": origin["classes"],
        "splits": dict(sizes),
        "source": origin["source"],
        "encoding": origin["encoding"],
        "licence": origin["licence"],
        "credit": subset.credit,
        "citation": subset.citation,
        "subset": f"per class at most {limits} images, those of the smallest SHA-256 of seed {SEED} and image; "
        "bytes unchanged",
        "sha256": {split: hashlib.sha256((folder / f"{split}.parquet").read_bytes()).hexdigest() for split in SPLITS},
    }


def image_digest(image: Mapping[str, Any]) -> str:
    """Return the hash that decides whether an image is taken."""
    return hashlib.sha256(f"{SEED}\x1f".encode() + image["bytes"]).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
