"""What an audit says: one finding per check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: of the check, such as ``starts_at_base``.
        passed: whether it holds; None where it does not apply or was not possible, which ``detail`` explains.
        detail: what was seen, in numbers; a failure names the site or tensor.
    """

    name: str
    passed: bool | None
    detail: str
