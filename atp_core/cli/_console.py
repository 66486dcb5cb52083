"""Where output goes: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.console import Console

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
    print(json.dumps(_plain(data), indent=2, allow_nan=False, ensure_ascii=False))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else ("Infinity" if data > 0 else "-Infinity")
    return data
