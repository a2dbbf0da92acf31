"""Errors of the exchange with peft."""


class PeftFormatError(ValueError):
    """An adapter that peft, or one of ours, cannot represent; or files of peft that cannot be read."""
