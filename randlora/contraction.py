"""Whether an update is cheaper on the weight or on the activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from randlora.adapter import Contraction, Site


def runs_on_activations(contraction: Contraction, *, site: Site, inner: int, tokens: int, training: bool) -> bool:
    """Return whether a call should add ``(x right^T) left^T`` instead of forming the adapted weight.

    Counts multiply-adds beyond the frozen layer, with k = ``inner`` the width between the factors:
    activation form ``T k (in + out)`` forward and about twice that backward; weight form ``k in out`` forward, and
    backward the weight gradient ``T in out`` and the gradients of the factors.

    Args:
        contraction: the method's setting; ``auto`` compares the counts.
        site: the adapted matrix; only a plain linear layer can run on activations.
        inner: *k*.
        tokens: number of input rows of this call, *T*.
        training: whether gradients will be taken.
    """
    if not site.linear or contraction == "weight":
        return False
    if contraction == "activation":
        return True
    sides = site.in_features + site.out_features
    area = site.in_features * site.out_features
    on_activations = tokens * inner * sides * (3 if training else 1)
    on_weight = inner * area * (2 if training else 1) + (tokens * area if training else 0)
    return on_activations < on_weight
