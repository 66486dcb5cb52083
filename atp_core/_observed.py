"""What allocations may look at: the dense model of a session, on its calibration data."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .records import Chain, PrunableWeight

if TYPE_CHECKING:
    import torch

    from ._session import Session
    from .trials import Objective

__all__ = ["ModelObserved"]


class ModelObserved:
    """The `atp_core.allocation.Observed` of a session; each look is taken once.

    The weights must be those that were loaded, but for `loss`, which is there to be asked while
    an allocation varies them.

    Args:
        session: the session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._norms: dict[str, torch.Tensor] | None = None
        self._inputs: dict[str, list[torch.Tensor]] | None = None
        self._objective: Objective | None = None

    def shared(self, session: Session) -> ModelObserved:
        """The same looks for another session on the same model and data."""
        other = copy.copy(self)
        other._session = session
        return other

    def norms(self, weight: PrunableWeight) -> torch.Tensor | None:
        """L2 norms of the weight's input features, shape (in_features,)."""
        from .engine.observing import input_norms

        if self._norms is None:
            session = self._session
            self._norms = input_norms(
                session.chains,
                session.calibration,
                device=session.device,
                progress=session.progress,
            )
        return self._norms.get(weight.name)

    def inputs(self, chain: Chain) -> Sequence[torch.Tensor]:
        """Some of what enters every block, shape (rows, features) each."""
        from .engine.observing import block_inputs

        if self._inputs is None:
            session = self._session
            self._inputs = block_inputs(
                session.chains,
                session.calibration,
                device=session.device,
                progress=session.progress,
            )
        return self._inputs[chain.name]

    def prepare(self) -> None:
        """Show the dense model to whoever compares with it, before `loss` is asked."""
        session = self._session
        session.see_dense("search")
        self._objective = session.objective()
        if self._objective is not None:
            self._objective.prepare(session.loaded, session.data)

    def loss(self) -> float:
        """The recipe's objective on the search split, turned so that lower is better."""
        session = self._session
        name, objective = session.recipe.objective, self._objective
        before, session.loaded.pruned = session.loaded.pruned, True
        try:
            if objective is not None:
                metric = session.evaluate("search", objective=objective).metric()
            else:
                metric = session.evaluate("search", [name] if name else None).metric(name)
        finally:
            session.loaded.pruned = before
        if metric.higher_is_better:
            return -metric.value
        return math.log(metric.value) if metric.value > 0 else metric.value
