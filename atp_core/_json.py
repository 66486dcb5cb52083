"""What JSON cannot hold."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["without_non_finite"]


def without_non_finite(data: Any) -> Any:
    """`data` with keys as strings, tuples as lists, and NaN and infinities as strings.

    The strings are "NaN", "Infinity" and "-Infinity", which `float` reads back.
    """
    if isinstance(data, dict):
        return {str(key): without_non_finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [without_non_finite(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else ("Infinity" if data > 0 else "-Infinity")
    return data
