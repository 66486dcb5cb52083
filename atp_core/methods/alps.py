"""ALPS: the layer's least squares under a number of nonzeros, by ADMM and conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch

from ..engine.statistics import Gram
from ..errors import NumericalError
from . import Pruned, Statistics
from .rounding import check_rate, row_counts, total_count
from .selection import keep_highest, keep_highest_in_groups, keep_highest_per_row
from .wanda import UNSEEN

__all__ = ["ALPS"]

_EVERY: Final = 3
"""Iterations between two looks at how far the support has moved."""

_RHO: Final = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""Share of the kept weights that moved → what ρ is multiplied by."""


_Choice = Callable[[torch.Tensor], torch.Tensor]
"""Which of some scores, shape (out_features, in_features), are kept."""


class _Problem(NamedTuple):
    """The Gram matrix scaled to a diagonal of ones, damped, and its eigendecomposition.

    Attributes:
        gram: shape (in_features, in_features).
        values: eigenvalues, shape (in_features,).
        vectors: eigenvectors, a column each.
        scale: what inputs were divided by, shape (in_features,); 0 where an input is always 0.
    """

    gram: torch.Tensor
    values: torch.Tensor
    vectors: torch.Tensor
    scale: torch.Tensor


class ALPS:
    """Minimizes ‖X(Ŵ − W)ᵀ‖² + λ‖Ŵ − W‖² over W with so many nonzeros.

    Weights are scaled by the norms of their inputs first, as Wanda's scores are. ADMM splits W from
    a copy D that has the nonzeros,

        W ← (Ŵ·H − V + ρ·D)(H + ρI)⁻¹,  D ← the highest |W + V/ρ|,  V ← V + ρ·(W − D),

    and ρ grows every three iterations, by 1.3, 1.2 or 1.1 as more than 10 %, more than 0.5 % or
    fewer of the kept weights have changed, until none has. Then W is the solution on that support,
    by conjugate gradients for all rows at once.

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
    Language Models" (NeurIPS 2024), Algorithms 1 and 2.

    Args:
        damping: λ, as a share of the diagonal of the scaled H.
        rho: ρ at the start.
        iterations: of ADMM, at most.
        refinements: steps of conjugate gradients.
    """

    name = "alps"
    calibrated = True
    work_bytes = 112  # measured on 2048 × 1024

    def __init__(
        self,
        damping: float = 0.01,
        rho: float = 0.1,
        iterations: int = 300,
        refinements: int = 10,
    ) -> None:
        self._damping = damping
        self._rho = rho
        self._iterations = iterations
        self._refinements = refinements

    def statistics(self, in_features: int, device: torch.device) -> Gram:
        """The Gram matrix of the inputs."""
        return Gram(in_features, device)

    def prune(self, weight: torch.Tensor, rate: float, statistics: Statistics | None) -> Pruned:
        """Choose and update the weights of `weight`, shape (out_features, in_features).

        Raises:
            NumericalError: the Gram matrix has no eigendecomposition, or the result is not finite.
            ValueError: `rate` lies outside [0, 1].
        """
        check_rate(rate)
        cut = total_count(weight.numel(), rate)
        if cut == 0:
            return Pruned(torch.ones_like(weight, dtype=torch.bool))
        if cut == weight.numel():
            return Pruned(torch.zeros_like(weight, dtype=torch.bool))
        if statistics is None or not statistics.tokens:
            counts = row_counts(weight.shape[0], weight.shape[1], rate)
            return Pruned(keep_highest_per_row(weight.abs(), counts), notes=[UNSEEN])
        return self._optimize(weight, statistics, lambda scores: keep_highest(scores, cut))

    def prune_pattern(
        self, weight: torch.Tensor, keep: int, of: int, statistics: Statistics | None
    ) -> Pruned:
        """The same with the nonzeros that a pattern allows.

        Raises:
            NumericalError: as `prune` does.
        """
        if statistics is None or not statistics.tokens:
            return Pruned(keep_highest_in_groups(weight.abs(), keep, of), notes=[UNSEEN])
        return self._optimize(
            weight, statistics, lambda scores: keep_highest_in_groups(scores, keep, of)
        )

    def _optimize(
        self, weight: torch.Tensor, statistics: Statistics, choose: _Choice
    ) -> Pruned:
        assert isinstance(statistics, Gram)
        problem = self._problem(statistics)
        target = weight * problem.scale
        mask, notes = self._support(target, problem, choose)
        found = self._solve(target, mask, problem)
        # What is always multiplied by 0 may be anything; it stays what it was.
        scale = torch.where(problem.scale > 0, problem.scale, 1.0)
        found = torch.where(problem.scale > 0, found / scale, weight)
        if not bool(torch.isfinite(found).all()):
            raise NumericalError(
                "the solution of alps is not finite; use more or other calibration data, or "
                "--method wanda"
            )
        return Pruned(mask, found.masked_fill_(~mask, 0.0), notes)

    def _support(
        self, target: torch.Tensor, problem: _Problem, choose: _Choice
    ) -> tuple[torch.Tensor, list[str]]:
        """Which weights ADMM ends with, shape (out_features, in_features)."""
        product = target @ problem.gram
        rho = self._rho
        mask = choose(target.abs())
        kept = int(mask.sum())
        sparse = target.masked_fill(~mask, 0.0)
        dual = torch.zeros_like(target)
        inverse = _inverse(problem, rho)
        before, moved = mask, 0
        for i in range(1, self._iterations + 1):
            dense = (product - dual + rho * sparse) @ inverse
            wanted = dense + dual / rho
            mask = choose(wanted.abs())
            sparse = wanted.masked_fill(~mask, 0.0)
            dual += rho * (dense - sparse)
            if i % _EVERY:
                continue
            moved = int((mask ^ before).sum()) // 2
            if not moved:
                return mask, []
            share = moved / max(kept, 1)
            rho *= next(factor for least, factor in _RHO if share >= least)
            inverse = _inverse(problem, rho)
            before = mask
        return mask, [
            f"after {self._iterations} iterations of ADMM {moved} weights of the support still "
            "changed"
        ]

    def _solve(
        self, target: torch.Tensor, mask: torch.Tensor, problem: _Problem
    ) -> torch.Tensor:
        """The least squares of every row on its support; conjugate gradients, preconditioned by
        the diagonal, which the scaling has made constant."""
        found = target.masked_fill(~mask, 0.0)
        residual = ((target - found) @ problem.gram).masked_fill_(~mask, 0.0)
        direction = residual.clone()
        squared = residual.square().sum(1, keepdim=True)
        for _ in range(self._refinements):
            image = (direction @ problem.gram).masked_fill_(~mask, 0.0)
            curvature = (direction * image).sum(1, keepdim=True)
            # A row that is solved already has no direction left.
            step = torch.where(curvature > 0, squared / curvature, 0.0).nan_to_num_()
            found += step * direction
            residual -= step * image
            known, squared = squared, residual.square().sum(1, keepdim=True)
            direction = residual + torch.where(known > 0, squared / known, 0.0).nan_to_num_() * (
                direction
            )
        return found

    def _problem(self, statistics: Gram) -> _Problem:
        """Weights that share their inputs share it."""
        key = f"alps/{self._damping}"
        known = statistics.derived.get(key)
        if known is None:
            known = statistics.derived[key] = self._decompose(statistics)
        return known  # type: ignore[return-value]

    def _decompose(self, statistics: Gram) -> _Problem:
        diagonal = statistics.matrix.diagonal()
        scale = diagonal.clamp(min=0.0).sqrt()
        inverse = torch.where(scale > 0, 1.0 / scale, 0.0)
        gram = statistics.matrix * inverse * inverse[:, None]
        gram.diagonal().fill_(1.0 + self._damping)
        try:
            values, vectors = torch.linalg.eigh(gram)
        except RuntimeError as error:  # torch.linalg.LinAlgError is one
            raise NumericalError(
                f"the Gram matrix has no eigendecomposition ({error}); use more or other "
                "calibration data, or --method wanda"
            ) from None
        # Rounding may leave what is 0 slightly below.
        return _Problem(gram, values.clamp_(min=self._damping / 2), vectors, scale)


def _inverse(problem: _Problem, rho: float) -> torch.Tensor:
    """(H + ρI)⁻¹."""
    return (problem.vectors / (problem.values + rho)) @ problem.vectors.T
