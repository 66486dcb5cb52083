"""GPTQ: round columns from left to right, and let the others make up for the errors.

Sparsity comes in the same pass: a weight that is cut is one that is rounded to zero.
"""

from __future__ import annotations

import torch

from atp_core.engine.statistics import Gram
from atp_core.methods.factorization import inverse_factor
from atp_core.methods.rounding import total_count
from atp_core.methods.selection import keep_highest

from ._grid import Grid, QuantizedWeight, Spec, fit_grid

__all__ = ["quantize_columns"]

# Columns after which a matrix product carries the errors further, and whose cuts are chosen
# together.
_BLOCK = 128


def quantize_columns(
    weight: torch.Tensor, statistics: Gram, spec: Spec, rate: float = 0.0
) -> tuple[QuantizedWeight, list[str]]:
    """Round, and at a rate above 0 cut, the columns with the optimal-brain-surgeon update.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers" (ICLR 2023), without reordering of columns; the cuts are SparseGPT's (ICML 2023,
    section 3.5 on joint sparsification and quantization). Exact zeros of `weight` stay zeros.

    Args:
        weight: shape (out_features, in_features), float32; not changed.
        statistics: of the inputs.
        spec: how to round.
        rate: share of the weights to cut.

    Returns:
        The codes, and what a user must know.

    Raises:
        NumericalError: the Hessian cannot be factorized.
    """
    factor, notes = inverse_factor(statistics, otherwise="--method rtn")
    rows, columns = weight.shape
    work = weight.clone()
    work[:, statistics.matrix.diagonal() == 0] = 0.0
    dropped = work == 0.0
    codes = torch.empty_like(weight, dtype=torch.int8)
    grids: list[Grid] = []
    done = 0
    for start, stop, opens in _blocks(columns, spec.width(columns)):
        if rate > 0.0:
            target = total_count(rows * stop, rate)
            scores = (work[:, start:stop] / factor.diagonal()[start:stop]).square()
            # What is zero already is cut first.
            scores.masked_fill_(dropped[:, start:stop], -1.0)
            keep = keep_highest(scores, max(target - done, 0))
            dropped[:, start:stop] |= ~keep
            done = max(target, done)
        if opens:
            end = start + spec.width(columns)
            grids.append(fit_grid(work[:, start:end].masked_fill(dropped[:, start:end], 0.0), spec))
        _sweep(work, codes, factor, dropped, grids[-1], (start, stop))
    scale = torch.cat([grid.scale for grid in grids], 1).to(spec.dtype)
    zero = torch.cat([grid.zero for grid in grids], 1).to(torch.int8)
    return QuantizedWeight(codes, scale, None if spec.symmetric else zero, spec.bits), list(notes)


def _blocks(columns: int, width: int) -> list[tuple[int, int, bool]]:
    """Ranges of columns that cross no border of a group, and whether a group begins there."""
    return [
        (start, min(start + _BLOCK, left + width), start == left)
        for left in range(0, columns, width)
        for start in range(left, left + width, _BLOCK)
    ]


def _sweep(
    work: torch.Tensor,
    codes: torch.Tensor,
    factor: torch.Tensor,
    dropped: torch.Tensor,
    grid: Grid,
    columns: tuple[int, int],
) -> None:
    """Round the columns of one block and carry their errors to the right, in place."""
    start, stop = columns
    errors = work.new_empty(work.shape[0], stop - start)
    for j in range(start, stop):
        column = work[:, j : j + 1]
        code = torch.where(dropped[:, j : j + 1], grid.zero, grid.codes(column))
        codes[:, j] = code.squeeze(1).to(torch.int8)
        error = (column - grid.values(code)).squeeze(1) / factor[j, j]
        work[:, j + 1 : stop].addr_(error, factor[j, j + 1 : stop], alpha=-1.0)
        errors[:, j - start] = error
    work[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1.0)
