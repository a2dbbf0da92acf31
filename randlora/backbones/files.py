"""Weight files on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from randlora.backbones.errors import WeightsError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def weights_file(checkpoint: str, *, root: Path, name: str) -> Path:
    """Return the path of a backbone's weights file, relative ones taken from ``root``.

    Raises:
        WeightsError: if it is not there.
    """
    path = (root / checkpoint).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"backbone {name}: no weights at {path}; give another file with backbone.checkpoint=PATH, or a published "
            "tag with backbone.checkpoint=null backbone.pretrained=TAG"
        )
    return path


def in_hub_cache(repository: str, *, revision: str | None = None) -> bool:
    """Return whether weights of a Hugging Face repository are in the cache; looks at files, downloads nothing."""
    from huggingface_hub import constants

    owner, _, name = repository.partition("/")
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{owner}--{name}" / "snapshots"
    return any(path.suffix in SUFFIXES for path in snapshots.glob(f"{revision or '*'}/**/*"))


def digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, of several the SHA-256 of theirs in turn."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(one.digest() for one in digests)).hexdigest()
