"""Figures in words, the same wherever results are shown."""

from __future__ import annotations

import math
from typing import Final

from ..records import Metric

__all__ = [
    "HONEST_LINE",
    "arrowed",
    "duration",
    "measured",
    "megabytes",
    "number",
    "percent",
    "size",
    "with_error",
]

HONEST_LINE: Final = (
    "The zeros are dense zeros, stored like any other number: the files are as large, and ordinary "
    "runtimes as fast, as with the dense model. To gain size or speed takes a format or a runtime "
    "made for sparse weights."
)
"""What unstructured sparsity does to size and speed, said wherever results are shown."""


def number(figure: float) -> str:
    """A figure to four digits, and whole where it is large."""
    return f"{figure:,.0f}" if math.isfinite(figure) and abs(figure) >= 1e4 else f"{figure:.4g}"


def percent(share: float) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * share:.4g} %"


def with_error(metric: Metric | None) -> str:
    """The figure of a metric, with its standard error where there is one."""
    if metric is None:
        return "-"
    text = number(metric.value)
    if metric.stderr is not None and math.isfinite(metric.stderr):
        text += f" ± {metric.stderr:.2g}"
    return text


def arrowed(metric: Metric, name: str = "") -> str:
    """The name of a metric, and in which direction it gets better."""
    return f"{name or metric.name} {'↑' if metric.higher_is_better else '↓'}"


def measured(metric: Metric) -> str:
    """How a figure was measured; without it, it cannot be compared with another's."""
    parts = (metric.dataset, f"{metric.n:,} observations", metric.unit, metric.convention)
    return "; ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def megabytes(count: int) -> str:
    """Bytes as megabytes, or kilobytes where they are few."""
    return f"{count / 1e6:,.1f} MB" if count >= 10**6 else f"{count / 1e3:,.1f} kB"


def size(zeros: int, prunable: int, total: int) -> str:
    """How many weights were cut.

    Args:
        zeros: weights that are zero.
        prunable: weights that might have been.
        total: parameters of the whole model; 0 where not known.
    """
    share = zeros / prunable if prunable else 0.0
    text = f"{zeros:,} of {prunable:,} prunable weights are zero ({percent(share)})"
    if total:
        text += f", {100 * zeros / total:.3g} % of all {total:,} parameters"
    return text
