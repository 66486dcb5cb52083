"""The grid that weights are rounded to: a scale, and perhaps a zero point, for each group."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Grid", "QuantizedWeight", "Spec", "fit_grid", "round_to_nearest"]

# Shares of the range of a group that are tried where the squared error chooses the scale.
_SHRUNK = tuple(1.0 - 0.05 * step for step in range(11))


@dataclass(frozen=True)
class Spec:
    """How the weights of a matrix are rounded.

    Attributes:
        bits: width of a code.
        group_size: neighbouring weights of a row that share a scale; None is the whole row.
        symmetric: no zero point; codes lie around zero.
        clip: choose each scale by the squared error, not by the range alone.
        dtype: of the scales, as they are stored.
    """

    bits: int
    group_size: int | None = 128
    symmetric: bool = True
    clip: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def least(self) -> int:
        """The lowest code."""
        return -(1 << (self.bits - 1))

    @property
    def most(self) -> int:
        """The highest code."""
        return (1 << (self.bits - 1)) - 1

    def width(self, in_features: int) -> int:
        """Weights that share a scale, in a row of `in_features`."""
        return in_features if self.group_size is None else self.group_size


@dataclass(frozen=True)
class Grid:
    """The grid of one group in every row.

    Attributes:
        scale: shape (rows, 1), float32, but with values that the stored dtype holds.
        zero: the code of zero, shape (rows, 1), float32 whole numbers.
        least: the lowest code.
        most: the highest code.
    """

    scale: torch.Tensor
    zero: torch.Tensor
    least: int
    most: int

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest codes of `weight`, shape (rows, columns), as whole float32 numbers."""
        return ((weight / self.scale).round_() + self.zero).clamp_(self.least, self.most)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """What codes stand for; that of `zero` is exactly 0."""
        return (codes - self.zero) * self.scale


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix of codes.

    Attributes:
        codes: shape (out_features, in_features), int8.
        scale: shape (out_features, groups), of the dtype asked for.
        zero: shape (out_features, groups), int8; None where symmetric.
        bits: width of a code.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    bits: int

    def dense(self) -> torch.Tensor:
        """The weights that the codes stand for, float32, shape (out_features, in_features)."""
        rows, columns = self.codes.shape
        codes = self.codes.float().view(rows, self.scale.shape[1], -1)
        if self.zero is not None:
            codes = codes - self.zero.float().unsqueeze(-1)
        return (codes * self.scale.float().unsqueeze(-1)).view(rows, columns)


def fit_grid(weight: torch.Tensor, spec: Spec) -> Grid:
    """The grid of one group.

    Symmetric: scale = max|w| / (2^(b−1) − ½), so that the range of codes is used evenly on both
    sides. Asymmetric: scale = (max − min) / (2^b − 1) of a range that holds zero.

    Args:
        weight: shape (rows, columns of the group), float32.
        spec: how to round.
    """
    if not spec.clip:
        return _grid(weight, spec, 1.0)
    best = _grid(weight, spec, 1.0)
    lowest = _error(weight, best)
    for share in _SHRUNK[1:]:
        grid = _grid(weight, spec, share)
        error = _error(weight, grid)
        better = error < lowest
        lowest = torch.where(better, error, lowest)
        best = Grid(
            torch.where(better, grid.scale, best.scale),
            torch.where(better, grid.zero, best.zero),
            spec.least,
            spec.most,
        )
    return best


def round_to_nearest(weight: torch.Tensor, spec: Spec) -> QuantizedWeight:
    """Round each weight to the nearest point of its group's grid; zeros stay zeros.

    Args:
        weight: shape (out_features, in_features), float32; in_features a multiple of the groups'.
        spec: how to round.
    """
    rows, columns = weight.shape
    width = spec.width(columns)
    # Groups of all rows at once: what is fitted is a row of this.
    groups = weight.reshape(-1, width)
    grid = fit_grid(groups, spec)
    shape = (rows, columns // width)
    return QuantizedWeight(
        grid.codes(groups).to(torch.int8).view(rows, columns),
        grid.scale.to(spec.dtype).view(shape),
        None if spec.symmetric else grid.zero.to(torch.int8).view(shape),
        spec.bits,
    )


def _grid(weight: torch.Tensor, spec: Spec, share: float) -> Grid:
    if spec.symmetric:
        reach = weight.abs().amax(1, keepdim=True) * share
        scale = _stored(reach / (spec.most + 0.5), spec.dtype)
        return Grid(scale, torch.zeros_like(scale), spec.least, spec.most)
    low = weight.amin(1, keepdim=True).clamp_(max=0.0) * share
    high = weight.amax(1, keepdim=True).clamp_(min=0.0) * share
    scale = _stored((high - low) / (spec.most - spec.least), spec.dtype)
    zero = (spec.least - low / scale).round_().clamp_(spec.least, spec.most)
    return Grid(scale, zero, spec.least, spec.most)


def _stored(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The scale as it can be stored; 1 for a group of zeros, where it does not matter."""
    stored = scale.to(dtype).float()
    return torch.where(stored > 0.0, stored, 1.0)


def _error(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    return (grid.values(grid.codes(weight)) - weight).square_().sum(1, keepdim=True)
