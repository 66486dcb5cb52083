"""The figures of POPE (Li et al., 2023, "Evaluating Object Hallucination in LVLMs")."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["POPE", "Figure", "pope_figures", "says_yes", "share"]

POPE: Final = ("pope_accuracy", "pope_f1", "pope_precision", "pope_recall", "pope_yes_ratio")
"""Names of the figures."""


class Figure(NamedTuple):
    """A share in per cent, its standard error where it has one, and of how many."""

    value: float
    stderr: float | None
    n: int


def says_yes(answer: str) -> bool:
    """Whether a generated answer counts as yes: its first sentence has neither "no" nor "not"."""
    words = re.findall(r"[a-z]+", answer.split(".")[0].lower())
    return "no" not in words and "not" not in words


def share(hits: int, n: int) -> Figure:
    """hits / n with its binomial standard error; 0 without one where n is 0."""
    if n == 0:
        return Figure(0.0, None, 0)
    p = hits / n
    return Figure(100 * p, 100 * math.sqrt(p * (1 - p) / n), n)


def pope_figures(said: Sequence[bool], right: Sequence[bool]) -> dict[str, Figure]:
    """All figures, with yes as the positive answer.

    Precision is 0 where nothing is answered with yes. F1 = 2PR / (P + R) has no standard error.

    Args:
        said: whether each answer counts as yes.
        right: whether yes is right.
    """
    pairs = list(zip(said, right, strict=True))
    hits = sum(s and r for s, r in pairs)
    precision, recall = share(hits, sum(said)), share(hits, sum(right))
    both = precision.value + recall.value
    return {
        "pope_accuracy": share(sum(s == r for s, r in pairs), len(pairs)),
        "pope_f1": Figure(
            2 * precision.value * recall.value / both if both else 0.0, None, len(pairs)
        ),
        "pope_precision": precision,
        "pope_recall": recall,
        "pope_yes_ratio": share(sum(said), len(pairs)),
    }
