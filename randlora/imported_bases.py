"""Frozen bases that came from elsewhere and cannot be grown from a seed."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from randlora.adapter import Shared
from randlora.inject import Adaptation


class ImportedBases(Shared):
    """Bases of another implementation; saved with the adapter, unlike those that grow from the seed."""


def put_bases(adaptation: Adaptation, tensors: Mapping[str, Tensor]) -> None:
    """Let every adapter read these bases instead of its own, in the device and dtype of the ones it had.

    Raises:
        ValueError: if the adapters share no bases, or bases of other names or of larger shapes than these.
    """
    holders = {id(own): own for _, _, own in _references(adaptation)}
    if len(holders) != 1:
        raise ValueError(f"{type(adaptation.method).__name__} has {len(holders)} sets of bases; imported ones need one")
    (own,) = holders.values()
    before = dict(own.named_buffers())
    if before.keys() != tensors.keys():
        raise ValueError(f"these bases are {', '.join(sorted(tensors))}; the adapters need {', '.join(sorted(before))}")
    for name, tensor in tensors.items():
        need, given = tuple(before[name].shape), tuple(tensor.shape)
        if len(given) != len(need) or any(have < want for have, want in zip(given, need, strict=True)):
            raise ValueError(f"the imported basis '{name}' is {list(given)}; these sites need at least {list(need)}")
    like = next(iter(before.values()))
    imported = ImportedBases(
        **{name: tensor.to(device=like.device, dtype=like.dtype).contiguous() for name, tensor in tensors.items()}
    )
    for parent, name, _ in _references(adaptation):
        setattr(parent, name, imported)


def imported_bases(adaptation: Adaptation) -> dict[str, Tensor]:
    """Return the imported bases by name; empty where the bases grow from the seed."""
    for _, _, shared in _references(adaptation):
        if isinstance(shared, ImportedBases):
            return dict(shared.named_buffers())
    return {}


def _references(adaptation: Adaptation) -> list[tuple[nn.Module, str, Shared]]:
    return [
        (parent, name, child)
        for adapter in adaptation.adapters.values()
        for parent in list(adapter.modules())
        for name, child in parent.named_children()
        if isinstance(child, Shared)
    ]
