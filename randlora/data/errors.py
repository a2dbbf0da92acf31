"""The errors of the data room: something about the data on this machine, not about the code that asked for it."""

from __future__ import annotations


class DataError(RuntimeError):
    """Data is missing, unreadable or not as described; the message says which, where and what to do."""


class MissingError(DataError):
    """What is asked for is not on this machine, as far as it was looked for."""


class ScriptError(DataError):
    """A place of the Hugging Face hub holds a loading script, which the ``datasets`` library no longer runs."""


class DiskError(DataError):
    """The disk refuses what is to be stored: it is full, or the folder cannot be written."""
