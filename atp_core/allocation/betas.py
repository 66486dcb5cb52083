"""β as users and allocators see it: one number for all chains, or one for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UnknownNameError, UsageError
from ..records import Beta

__all__ = ["beta_text", "by_chain", "shortest", "steepness"]


def by_chain(beta: Any, chains: Sequence[str], allocation: str = "atp") -> dict[str, float]:
    """β of every chain.

    Args:
        beta: a number for all, or chain → number.
        chains: names of the chains.
        allocation: whose β it is.

    Raises:
        UsageError: it is neither, not finite, or not one for each chain.
        UnknownNameError: it names a chain that is not there.
    """
    named = dict(beta) if isinstance(beta, Mapping) else dict.fromkeys(chains, beta)
    for chain, value in named.items():
        if chain not in chains:
            raise UnknownNameError("chain", chain, chains)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(
                f"the {allocation} allocation needs a number for β, e.g. --beta 0.005"
            )
        if not math.isfinite(value):
            raise UsageError(f"β must be a finite number, not {value}, e.g. --beta 0.005")
    for chain in chains:
        if chain not in named:
            raise UsageError(f"no β is given for chain {chain!r}; name all of {', '.join(chains)}")
    return {chain: float(named[chain]) for chain in chains}


def shortest(betas: Mapping[str, float]) -> Beta:
    """One number where all chains have the same."""
    values = set(betas.values())
    return values.pop() if len(values) == 1 else dict(betas)


def steepness(beta: Beta | None) -> float:
    """How far from uniform: β, or the sum over chains where they differ; 0 without one."""
    if beta is None:
        return 0.0
    return sum(beta.values()) if isinstance(beta, Mapping) else beta


def beta_text(beta: Beta | None, digits: int = 4) -> str:
    """β for people, e.g. ``0.0056`` or ``vision 0.004, text 0.006``; a dash without one."""
    if beta is None:
        return "–"
    if isinstance(beta, Mapping):
        return ", ".join(f"{chain} {value:.{digits}g}" for chain, value in beta.items())
    return f"{beta:.{digits}g}"
