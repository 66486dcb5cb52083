"""Turning a rate into whole numbers of weights without losing any.

The reference codes floor the count of every row and so miss their target; here the remainder is
spread over the rows.
"""

from __future__ import annotations

import math

import torch

__all__ = ["check_rate", "row_counts", "total_count"]


def check_rate(rate: float) -> None:
    """Refuse a rate that is none.

    Raises:
        ValueError: `rate` is NaN or lies outside [0, 1].
    """
    if not (math.isfinite(rate) and 0.0 <= rate <= 1.0):
        raise ValueError(f"a sparsity rate lies in [0, 1], not {rate}")


def total_count(numel: int, rate: float) -> int:
    """How many of `numel` weights to cut: the nearest whole number."""
    check_rate(rate)
    return round(rate * numel)


def row_counts(rows: int, columns: int, rate: float) -> torch.Tensor:
    """How many weights to cut in each row, shape (rows,), int64.

    The counts differ by at most one and add up to the nearest whole number to the rate; the rows
    that cut one more are spread evenly (Bresenham's line).
    """
    total = total_count(rows * columns, rate)
    edges = torch.arange(rows + 1, dtype=torch.int64) * total // max(rows, 1)
    return edges[1:] - edges[:-1]
