"""The figures of POPE (Li et al., 2023, "Evaluating Object Hallucination in LVLMs")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from atp_core.measuring import Figure, share_figure

__all__ = ["POPE", "pope_figures", "says_yes"]

POPE: Final = ("pope_accuracy", "pope_f1", "pope_precision", "pope_recall", "pope_yes_ratio")
"""Names of the figures."""


def says_yes(answer: str) -> bool:
    """Whether a generated answer counts as yes: its first sentence has neither "no" nor "not"."""
    words = re.findall(r"[a-z]+", answer.split(".")[0].lower())
    return "no" not in words and "not" not in words


def pope_figures(
    said: Sequence[bool], right: Sequence[bool], ids: Sequence[str]
) -> dict[str, Figure]:
    """All figures, with yes as the positive answer.

    Precision is 0 where nothing is answered with yes. F1 = 2PR / (P + R) has no standard error.
    Neither is a mean over questions that are the same for every model.

    Args:
        said: whether each answer counts as yes.
        right: whether yes is right.
        ids: identities of the questions.
    """
    pairs = list(zip(said, right, strict=True))
    precision = _share([r for s, r in pairs if s], None)
    recall = _share(
        [s for s, r in pairs if r], [one for one, r in zip(ids, right, strict=True) if r]
    )
    both = precision.value + recall.value
    f1 = 2 * precision.value * recall.value / both if both else 0.0
    return {
        "pope_accuracy": _share([s == r for s, r in pairs], ids),
        "pope_f1": Figure(f1, None, len(pairs), "%", higher_is_better=True),
        "pope_precision": precision,
        "pope_recall": recall,
        "pope_yes_ratio": _share(list(said), ids),
    }


def _share(hits: Sequence[bool], ids: Sequence[str] | None) -> Figure:
    """`share_figure`; 0 without a standard error where there are none."""
    return share_figure(hits, ids) if hits else Figure(0.0, None, 0, "%", higher_is_better=True)
