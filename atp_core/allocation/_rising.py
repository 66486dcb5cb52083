"""Schedules that rise with depth by β: ATP's straight line, and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UsageError
from ..records import Schedule
from . import AllocationRequest
from .betas import by_chain, shortest
from .budget import beta_max, solve_intercept

__all__ = ["rising"]

# Limits are computed from S and L; a β that was computed from them must not fail by rounding.
_TOLERANCE = 1e-12


def rising(
    request: AllocationRequest, name: str, beta: Any, offset: Callable[[float, int, int], float]
) -> Schedule:
    """Rates that lie by `offset` above an intercept that meets each chain's budget.

    Args:
        request: what is asked for.
        name: of the allocation.
        beta: a number, or one for each chain.
        offset: of β, the steps before a block, and the steps from the first block to the last.

    Raises:
        UsageError: β is missing or outside its range.
    """
    betas = by_chain(beta, [chain.name for chain in request.chains], name)
    rates: dict[str, dict[str, float]] = {}
    for chain in request.chains:
        own, target = betas[chain.name], request.sparsity[chain.name]
        steps = len(chain.blocks) - 1
        limit = beta_max(target, len(chain.blocks))
        # One block alone has no progression, so any β that others can use suits it.
        if own < 0.0 or (steps and own > limit + _TOLERANCE):
            raise UsageError(
                f"β = {own:g} lies outside [0, {limit:.6g}], its range for chain "
                f"{chain.name!r} with {len(chain.blocks)} blocks at sparsity {target:g}"
            )
        solved = solve_intercept(
            [block.parameters for block in chain.blocks],
            [offset(own, i, steps) for i in range(steps + 1)],
            target,
        )
        names = [block.name for block in chain.blocks]
        rates[chain.name] = dict(zip(names, solved, strict=True))
    return Schedule(rates, request.target, name, shortest(betas))
