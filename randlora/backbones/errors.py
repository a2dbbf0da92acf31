"""Errors of the backbone room."""


class WeightsError(RuntimeError):
    """Pre-trained weights are missing, truncated or of another model."""
