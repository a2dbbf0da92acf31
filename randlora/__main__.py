"""The console script: hands over to the suite where it is installed from a checkout."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module


def main() -> int:
    """Run the suite's command line, or say how to get it."""
    if importlib.util.find_spec("runners") is None:
        print(
            "The command line belongs to the suite, which runs from a checkout of the repository: clone it and run "
            "`make setup`. This installation holds the library alone (import randlora).",
            file=sys.stderr,
        )
        return 2
    return int(import_module("runners.cli").main())


if __name__ == "__main__":
    raise SystemExit(main())
