"""The factor of the inverse Hessian that column-by-column updates share."""

from __future__ import annotations

import torch

from ..engine.statistics import Gram
from ..errors import NumericalError

__all__ = ["inverse_factor"]


def inverse_factor(
    statistics: Gram,
    damping: float = 0.01,
    most_damping: float = 10.0,
    *,
    otherwise: str = "--method wanda",
) -> tuple[torch.Tensor, list[str]]:
    """The upper Cholesky factor of H⁻¹, H = (2/n)·XᵀX + damping.

    Weights that share their inputs share the factor: it is kept with the statistics.

    Args:
        statistics: XᵀX of n sequences, shape (in_features, in_features).
        damping: share of the mean diagonal of H that is added to the diagonal.
        most_damping: damping is raised tenfold up to this where the factorization fails.
        otherwise: what users can do where that fails too.

    Returns:
        The factor, shape (in_features, in_features), and what a user must know.

    Raises:
        NumericalError: H cannot be factorized even with the highest damping.
    """
    key = f"inverse_factor/{damping}/{most_damping}"
    known = statistics.derived.get(key)
    if known is None:
        known = statistics.derived[key] = _factorize(
            statistics, damping, most_damping, otherwise
        )
    return known  # type: ignore[return-value]


def _factorize(
    statistics: Gram, least: float, most_damping: float, otherwise: str
) -> tuple[torch.Tensor, list[str]]:
    hessian = statistics.matrix * (2.0 / max(statistics.sequences, 1))
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1.0
    mean = float(diagonal.mean())
    damping = least
    while damping <= most_damping * (1 + 1e-9):
        damped = hessian.clone()
        damped.diagonal().add_(damping * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(factor)
            factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if not int(failed) and bool(torch.isfinite(factor).all()):
            notes = []
            if damping != least:
                notes.append(
                    f"the Cholesky factorization failed with damping {least:g}; "
                    f"damping {damping:g} was used"
                )
            return factor, notes
        damping *= 10.0
    raise NumericalError(
        f"the Cholesky factorization fails even with damping {most_damping:g}; use more "
        f"or other calibration data, or {otherwise}"
    )
