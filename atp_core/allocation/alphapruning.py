"""AlphaPruning: blocks whose weights have heavier-tailed spectra stay denser."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..errors import NumericalError
from ..records import Block, Schedule
from . import AllocationRequest
from ._options import choice, number, only
from .budget import solve_scale

__all__ = ["AlphaPruning"]

_BINS = 100
_ALIKE = 1e-4  # mean log-ratio below which eigenvalues differ by no more than rounding


class AlphaPruning:
    """Rates in proportion to the power-law exponents of the blocks' spectra.

    The exponent of a weight is the Hill estimate α = 1 + n/Σ ln(λ_j/λ_min) over its n largest
    eigenvalues λ = σ²; of a block, the mean over its weights. Ratios
    r = (α − min)/(max − min)·2ε + (1 − ε) are scaled until the budget is met by parameters, as in
    the repository, which does not keep rates below 1; here what would be above is spread over the
    others.

    Where the tail begins is settled by the estimator: "peak" looks up to 1.5 times the peak of the
    histogram of log λ for the start with the least Kolmogorov-Smirnov distance from a power law
    (the repository's default for language models), "mid" takes the upper half (its choice for
    vision, and what "peak" takes where it has no start to choose).
    A weight whose eigenvalues are too few or too equal has no exponent and does not count; a block
    without any takes the mean of the others.

    Source: Lu et al., "AlphaPruning" (NeurIPS 2024), and its repository.

    Options: "epsilon" (0.3), "estimator" ("peak", or "mid").
    """

    name = "alphapruning"
    takes_beta = False
    needs = frozenset({"weights"})

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: an option is unknown or outside its range.
            NumericalError: a weight is not finite.
        """
        only(self.name, request.options, "epsilon", "estimator")
        epsilon = number(request.options, "epsilon", 0.3, 0.0, 1.0)
        start = _STARTS[choice(request.options, "estimator", "peak", *_STARTS)]
        rates = {}
        for chain in request.chains:
            alphas = [_block_alpha(block, start) for block in chain.blocks]
            known = [alpha for alpha in alphas if alpha is not None]
            mean = sum(known) / len(known) if known else 1.0
            filled = [mean if alpha is None else alpha for alpha in alphas]
            low, high = min(filled), max(filled)
            span = high - low
            ratios = [
                ((alpha - low) / span if span > 0 else 0.5) * 2 * epsilon + 1 - epsilon
                for alpha in filled
            ]
            sizes = [block.parameters for block in chain.blocks]
            solved = solve_scale(sizes, ratios, request.sparsity[chain.name])
            names = [block.name for block in chain.blocks]
            rates[chain.name] = dict(zip(names, solved, strict=True))
        return Schedule(rates, request.target, self.name)


def _block_alpha(block: Block, start: Callable[[torch.Tensor], int]) -> float | None:
    alphas = []
    for weight in block.weights:
        matrix = weight.matrix().detach().float()
        if not bool(matrix.isfinite().all()):
            raise NumericalError(
                f"{weight.name} has values that are not finite, so it has no spectrum; the "
                "checkpoint is damaged, or its dtype too narrow"
            )
        values = torch.linalg.svdvals(matrix).double().square()
        spectrum = values.cpu().flip(0)
        # What is zero to rounding belongs to the rank, not to the tail. What rounding leaves of a
        # zero singular value grows like the root of the side, times ε of float32.
        rounding = max(weight.shape) * torch.finfo(torch.float32).eps ** 2
        spectrum = spectrum[spectrum > float(spectrum[-1]) * rounding]
        alpha = _hill(spectrum, start(spectrum)) if spectrum.numel() > 1 else None
        if alpha is not None:
            alphas.append(alpha)
    return sum(alphas) / len(alphas) if alphas else None


def _hill(spectrum: torch.Tensor, start: int) -> float | None:
    """The exponent of the tail from index `start`, or None where its values are equal to rounding.

    Args:
        spectrum: eigenvalues, ascending, positive.
        start: where the tail begins.
    """
    tail = spectrum[start:]
    spread = float((tail / tail[0]).log().sum())
    return 1.0 + tail.numel() / spread if spread > _ALIKE * tail.numel() else None


def _middle(spectrum: torch.Tensor) -> int:
    return spectrum.numel() // 2


def _peak(spectrum: torch.Tensor) -> int:
    """The start, up to the histogram's peak, whose tail is nearest to a power law."""
    logs = spectrum.log10()
    counts = torch.histc(logs, _BINS, float(logs[0]), float(logs[-1]))
    width = (float(logs[-1]) - float(logs[0])) / _BINS
    peak = 10 ** (float(logs[0]) + (int(counts.argmax()) + 0.5) * width)
    # The repository holds the eigenvalue against the logarithm of its lower limit, so that the
    # limit hardly ever binds. The published exponents are of this, and so are these.
    low = math.log10(0.95 * peak)
    candidates = [
        i for i, value in enumerate(spectrum.tolist()[:-1]) if low < value <= 1.5 * peak
    ]
    best, least = _middle(spectrum), math.inf
    for i in candidates:
        alpha = _hill(spectrum, i)
        if alpha is None:
            continue
        tail = spectrum[i:]
        places = torch.arange(tail.numel(), dtype=torch.float64) / tail.numel()
        distance = float((1 - (tail / tail[0]) ** (1 - alpha) - places).abs().max())
        if distance < least:
            best, least = i, distance
    return best


_STARTS: dict[str, Callable[[torch.Tensor], int]] = {"peak": _peak, "mid": _middle}
