"""Erdős–Rényi densities: small matrices stay denser than large ones."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Chain, PrunableWeight, Schedule
from . import AllocationRequest
from ._by_weight import implied, spread
from ._options import number, only
from .budget import solve_scale

__all__ = ["ER", "ERK", "ERPlus"]


class ER:
    """Density of a matrix in proportion to (n_in + n_out)/(n_in·n_out).

    Densities above 1 are kept at 1 and the rest is spread over the others. Where all blocks have
    the same shapes, as in most transformers, every block gets S.

    Source: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity" (2018). It has no options.
    """

    name = "er"
    takes_beta = False

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: an option is given.
        """
        only(self.name, request.options)

        def cut(chain: Chain, sparsity: float) -> dict[str, float]:
            weights = [weight for block in chain.blocks for weight in block.weights]
            return spread(weights, _densities(weights, 1.0 - sparsity, kernels=False))

        return implied(request, self.name, cut)


class ERK:
    """As ER, with the sides of convolution kernels in the sum and in the product.

    Source: Evci et al., "Rigging the Lottery" (ICML 2020). It has no options.
    """

    name = "erk"
    takes_beta = False

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: an option is given.
        """
        only(self.name, request.options)

        def cut(chain: Chain, sparsity: float) -> dict[str, float]:
            weights = [weight for block in chain.blocks for weight in block.weights]
            return spread(weights, _densities(weights, 1.0 - sparsity, kernels=True))

        return implied(request, self.name, cut)


class ERPlus:
    """As ERK, with the last weight of a chain at a density of its own, dense by default.

    In the reference the last weight is the classifier's, which is seldom located here. Where the
    budget does not allow the density, the last weight gets all of it.

    Source: Liu et al., "The Unreasonable Effectiveness of Random Pruning" (ICLR 2022), and its
    repository.

    Options: "last_density" (1.0).
    """

    name = "er-plus"
    takes_beta = False

    def allocate(self, request: AllocationRequest) -> Schedule:
        """The rates of every chain.

        Raises:
            UsageError: the option is unknown or outside its range.
        """
        only(self.name, request.options, "last_density")
        last = number(request.options, "last_density", 1.0, 0.0, 1.0)

        def cut(chain: Chain, sparsity: float) -> dict[str, float]:
            weights = [weight for block in chain.blocks for weight in block.weights]
            kept = (1.0 - sparsity) * chain.parameters
            others = sum(weight.numel for weight in weights[:-1])
            # The others can keep no more than all they have.
            held = max(min(last * weights[-1].numel, kept), kept - others)
            rest = (kept - held) / others if others else 0.0
            densities = _densities(weights[:-1], rest, kernels=True)
            return spread(weights, [*densities, held / weights[-1].numel])

        return implied(request, self.name, cut)


def _densities(
    weights: Sequence[PrunableWeight], density: float, *, kernels: bool
) -> list[float]:
    """The density of each weight, their mean by parameters equal to `density`."""
    if not weights:
        return []
    asked = [_ratio(weight, kernels) for weight in weights]
    return solve_scale([weight.numel for weight in weights], asked, density)


def _ratio(weight: PrunableWeight, kernels: bool) -> float:
    """The sum of the sides over their product."""
    n_out, n_in = weight.shape
    sides = [n_out, n_in]
    shape = weight.tensor.shape
    if kernels and len(shape) == 4 and not weight.index and weight.rows is None:
        high, wide = int(shape[2]), int(shape[3])
        sides = [n_out, n_in // (high * wide), high, wide]
    product = 1
    for side in sides:
        product *= side
    return sum(sides) / product
