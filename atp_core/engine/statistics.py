"""What methods want to know of a weight's inputs, accumulated in float32 batch by batch."""

from __future__ import annotations

import torch

__all__ = ["ColumnNorms", "Gram", "Moments"]


class ColumnNorms:
    """The sum of squares of every input feature.

    Args:
        in_features: width of the inputs.
        device: where to accumulate.
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.squares = torch.zeros(in_features, dtype=torch.float32, device=device)
        self.tokens = 0
        self.sequences = 0

    def add(self, inputs: torch.Tensor, sequences: int) -> None:
        """Take in rows of shape (tokens, in_features)."""
        self.squares += torch.linalg.vector_norm(inputs, dim=0, dtype=torch.float32).square()
        self.tokens += inputs.shape[0]
        self.sequences += sequences

    def finite(self) -> bool:
        """Whether every sum is finite."""
        return bool(torch.isfinite(self.squares).all())


class Moments(ColumnNorms):
    """The sum and the sum of squares of every input feature.

    Args:
        in_features: width of the inputs.
        device: where to accumulate.
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        super().__init__(in_features, device)
        self.sums = torch.zeros_like(self.squares)

    def add(self, inputs: torch.Tensor, sequences: int) -> None:
        """Take in rows of shape (tokens, in_features)."""
        super().add(inputs, sequences)
        self.sums += inputs.sum(0, dtype=torch.float32)

    def finite(self) -> bool:
        """Whether every sum is finite."""
        return super().finite() and bool(torch.isfinite(self.sums).all())


class Gram:
    """The Gram matrix XᵀX of the inputs, and what is derived from it once.

    Args:
        in_features: width of the inputs.
        device: where to accumulate.
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.matrix = torch.zeros(in_features, in_features, dtype=torch.float32, device=device)
        self.tokens = 0
        self.sequences = 0
        self.derived: dict[str, object] = {}

    def add(self, inputs: torch.Tensor, sequences: int) -> None:
        """Take in rows of shape (tokens, in_features)."""
        self.matrix.addmm_(inputs.T, inputs)
        self.derived.clear()  # it was derived from fewer rows
        self.tokens += inputs.shape[0]
        self.sequences += sequences

    def finite(self) -> bool:
        """Whether every entry is finite."""
        return bool(torch.isfinite(self.matrix).all())
