"""Numbers for people."""

from __future__ import annotations


def quantity(count: int) -> str:
    """Return a number of parameters for people: 940, 47.3 k, 3.01 M."""
    if count < 1000:
        return str(count)
    scaled, unit = (count / 1e3, "k") if count < 999_950 else (count / 1e6, "M")
    digits = 2 if unit == "M" and scaled < 9.995 else 1
    return f"{scaled:.{digits}f} {unit}"


def size(count: int) -> str:
    """Return a number of bytes for people: 12.5 MiB, 640 MiB, 1.25 GiB."""
    mebibytes = count / 2**20
    if mebibytes >= 1023.5:
        return f"{mebibytes / 1024:.2f} GiB"
    return f"{mebibytes:.0f} MiB" if mebibytes >= 99.95 else f"{mebibytes:.1f} MiB"


def duration(seconds: float) -> str:
    """Return a step time for people: 1.24 ms, 12.4 ms, 1240 ms."""
    milliseconds = seconds * 1e3
    digits = 2 if milliseconds < 9.995 else 1 if milliseconds < 99.95 else 0
    return f"{milliseconds:.{digits}f} ms"


def span(seconds: float) -> str:
    """Return how long something takes, for people: 40 s, 12 min 05 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as a percentage with one decimal or more, without its sign."""
    return f"{fraction * 100:.{digits}f}"


def signed_percent(fraction: float, digits: int = 1, *, minus: str) -> str:
    """Return a difference of fractions as a percentage with its sign: +0.3, 0.0."""
    shown = percent(abs(fraction), digits)
    return shown if float(shown) == 0 else f"{'+' if fraction > 0 else minus}{shown}"
