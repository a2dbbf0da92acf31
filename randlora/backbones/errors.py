"""Errors of the backbone room, and the words for what can be wrong with weights."""

from __future__ import annotations

from pathlib import Path


class WeightsError(RuntimeError):
    """Pre-trained weights are missing, truncated or of another model."""


def unreadable(name: str, source: Path | str, reason: object) -> WeightsError:
    """Return the error for weights that are there and cannot be read."""
    return WeightsError(f"backbone {name}: {source} cannot be read as weights ({reason}); fetch it again")


def other_architecture(name: str, source: Path | str, reason: object) -> WeightsError:
    """Return the error for weights that do not fit the model."""
    return WeightsError(f"backbone {name}: {source} holds weights of another architecture: {reason}")


def not_downloaded(name: str, weights: str, error: Exception) -> WeightsError:
    """Return the error for published weights of a tag that are neither here nor to be had."""
    return WeightsError(
        f"backbone {name}: the weights {weights} are not on this machine and could not be downloaded "
        f"({type(error).__name__}). With a network, run the same command again; without, copy the file from another "
        "machine: backbone.pretrained=null backbone.checkpoint=/path/to/weights"
    )
