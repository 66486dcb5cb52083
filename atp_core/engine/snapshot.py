"""A copy of the prunable weights, to restore them exactly between trials."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import NumericalError
from ..records import Chain

__all__ = ["Snapshot"]


class Snapshot:
    """Keeps the parameters that hold prunable weights, on the CPU.

    Chains of a model that is streamed have no need of it: what is done to a block is let go of with
    the block.

    Args:
        chains: the chains whose weights will be pruned.

    Attributes:
        stale: whether the model may differ from the copies; whoever prunes sets it.

    Raises:
        NumericalError: a weight is NaN or infinite; names the block.
    """

    def __init__(self, chains: Sequence[Chain]) -> None:
        self.stale = False
        self._copies: dict[tuple[int, str], tuple[nn.Module, str, torch.Tensor]] = {}
        for chain in (one for one in chains if one.placement is None):
            for block in chain.blocks:
                for weight in block.weights:
                    key = (id(weight.module), weight.parameter)
                    if key in self._copies:
                        continue
                    copy = weight.tensor.to("cpu", copy=True)
                    if not bool(torch.isfinite(copy).all()):
                        raise NumericalError(
                            f"{weight.name} in block {block.name} holds NaN or infinity; "
                            "the checkpoint is damaged, or overflowed in its dtype"
                        )
                    self._copies[key] = (weight.module, weight.parameter, copy)

    @property
    def nbytes(self) -> int:
        """Size of the copies in bytes."""
        return sum(copy.nbytes for _, _, copy in self._copies.values())

    def restore(self) -> None:
        """Put every weight back, bit for bit, if anything may have changed one."""
        if not self.stale:
            return
        with torch.no_grad():
            for module, parameter, copy in self._copies.values():
                getattr(module, parameter).detach().copy_(copy)
        self.stale = False
