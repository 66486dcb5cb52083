"""Where output goes: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from .._json import without_non_finite

__all__ = ["emit_json", "stderr", "stdout"]


def stdout() -> Console:
    """The console for data."""
    # Without a terminal there is no width to fit; tables must not be cut then.
    return Console(width=None if sys.stdout.isatty() else 120)


def stderr() -> Console:
    """The console for progress, notes and errors."""
    return Console(stderr=True)


def emit_json(data: Any) -> None:
    """Print one JSON object on stdout.

    JSON has no NaN and no infinity; they are printed as the strings "NaN" and "±Infinity".
    """
    print(json.dumps(without_non_finite(data), indent=2, allow_nan=False, ensure_ascii=False))
