"""What pruned weights look like: zeros, and the N:M patterns they keep to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from ..records import Block

__all__ = ["count_zeros", "patterns_of"]

_GROUPS: Final = (4, 8, 16)


def count_zeros(block: Block) -> int:
    """Weights of a block that are zero."""
    return sum(int((weight.matrix() == 0).sum()) for weight in block.weights)


def patterns_of(block: Block) -> Sequence[str]:
    """N:M for M of 4, 8 and 16, where no M consecutive weights of a row have more than N < M."""
    found = []
    for of in _GROUPS:
        fullest = max(_fullest(weight.matrix() != 0, of) for weight in block.weights)
        if fullest < of:
            found.append(f"{fullest}:{of}")
    return found


def _fullest(kept: torch.Tensor, of: int) -> int:
    """The most that a group has; a last group that is shorter cannot have more than it holds."""
    rows, columns = kept.shape
    groups = [kept[:, start : start + of] for start in range(columns - columns % of, columns, of)]
    whole = kept[:, : columns - columns % of]
    most = [int(part.sum(1).max()) for part in groups]
    if whole.numel():
        most.append(int(whole.reshape(rows, -1, of).sum(-1).max()))
    return max(most, default=0)
