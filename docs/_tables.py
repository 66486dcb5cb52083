"""What the tables of recorded results are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "figure", "line", "read", "rule", "span"]

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def read(name: str) -> Any:
    """What a benchmark wrote."""
    return json.loads((RESULTS / name).read_text("utf-8"))


def line(cells: Iterable[object]) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def rule(count: int) -> str:
    """What stands under the head of a table: one column of words, then `count` of figures."""
    return "|---|" + "---:|" * count


def figure(value: float) -> str:
    """Four digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def span(values: Iterable[float], digits: int = 2) -> str:
    """Lowest to highest."""
    found = sorted(values)
    if not found:
        return ""
    low, high = (f"{value:.{digits}f}" for value in (found[0], found[-1]))
    return low if low == high else f"{low} to {high}"
