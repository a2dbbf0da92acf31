"""The one error of the data room: something about the data on this machine, not about the code that asked for it."""

from __future__ import annotations


class DataError(RuntimeError):
    """Data is missing, unreadable or not as described; the message says which, where and what to do."""
