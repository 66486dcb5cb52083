"""Trials as curves over one β."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import Beta

__all__ = ["Curve", "beta_curves"]


@dataclass
class Curve:
    """Trials that differ in one β.

    Attributes:
        chosen: that β as it was taken; None where each chain got its own.
        trials: as `Trial.to_dict` gives them, with that β alone.
    """

    chosen: float | None
    trials: list[dict[str, Any]] = field(default_factory=list)


def beta_curves(trials: Sequence[Mapping[str, Any]], beta: Beta | None) -> dict[str, Curve]:
    """The curves in which more than one β was tried.

    Args:
        trials: as `Trial.to_dict` gives them.
        beta: the β that was taken in the end.

    Returns:
        "" → trials of one β for all chains; chain → those that varied the β of this chain.
    """
    curves = {"": Curve(None if isinstance(beta, Mapping) else beta)}
    for trial in trials:
        tried = trial["beta"]
        if tried is None:
            continue
        if not isinstance(tried, Mapping):
            curves[""].trials.append(dict(trial))
            continue
        chain = str(trial["stage"]).removeprefix("search ")
        if chain in tried:
            taken = beta[chain] if isinstance(beta, Mapping) else beta
            curve = curves.setdefault(chain, Curve(taken))
            curve.trials.append({**trial, "beta": tried[chain], "stage": "search"})
    return {
        chain: curve
        for chain, curve in curves.items()
        if len({trial["beta"] for trial in curve.trials}) > 1
    }
