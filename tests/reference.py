"""Plain implementations of published pruning algorithms, to compare with.

Written from the papers and the behaviour of their repositories: running means over samples, full
sorts, one column at a time. They choose the same number of weights as the mask they are compared
with, because the repositories round differently.
"""

from __future__ import annotations

import math

import torch

__all__ = ["plain_sparsegpt", "plain_wanda", "zeros_per_block"]


def plain_wanda(
    weight: torch.Tensor, batches: list[torch.Tensor], zeros: torch.Tensor
) -> torch.Tensor:
    """Wanda, with a full stable sort of every row; `zeros` says how many a row loses."""
    squares = torch.zeros(weight.shape[1])
    for seen, batch in enumerate(batches):
        squares = squares * (seen / (seen + 1)) + batch.norm(p=2, dim=0) ** 2 / (seen + 1)
    metric = weight.abs() * torch.sqrt(squares.reshape(1, -1))
    mask = torch.ones_like(weight, dtype=torch.bool)
    order = torch.sort(metric, dim=-1, stable=True)[1]
    for row in range(weight.shape[0]):
        mask[row, order[row, : int(zeros[row])]] = False
    return mask


def plain_sparsegpt(
    weight: torch.Tensor, batches: list[torch.Tensor], zeros: list[int], block: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """SparseGPT column by column; `zeros` says how many weights each block of columns loses."""
    w = weight.clone()
    columns = w.shape[1]
    hessian = torch.zeros(columns, columns, dtype=weight.dtype)
    for seen, batch in enumerate(batches):
        hessian *= seen / (seen + 1)
        x = math.sqrt(2 / (seen + 1)) * batch.t()
        hessian += x.matmul(x.t())
    dead = torch.diag(hessian) == 0
    hessian[dead, dead] = 1
    w[:, dead] = 0
    index = torch.arange(columns)
    hessian[index, index] += 0.01 * torch.mean(torch.diag(hessian))
    hessian = torch.linalg.cholesky(hessian)
    hessian = torch.cholesky_inverse(hessian)
    inverse = torch.linalg.cholesky(hessian, upper=True)
    whole = torch.zeros_like(w, dtype=torch.bool)
    for number, start in enumerate(range(0, columns, block)):
        stop = min(start + block, columns)
        part = w[:, start:stop].clone()
        result = torch.zeros_like(part)
        errors = torch.zeros_like(part)
        inner = inverse[start:stop, start:stop]
        scores = part**2 / torch.diag(inner).reshape(1, -1) ** 2
        order = torch.sort(scores.flatten(), stable=True)[1][: zeros[number]]
        drop = torch.zeros(scores.numel(), dtype=torch.bool)
        drop[order] = True
        drop = drop.view_as(scores)
        for i in range(stop - start):
            column = part[:, i]
            kept = column.clone()
            kept[drop[:, i]] = 0
            result[:, i] = kept
            error = (column - kept) / inner[i, i]
            part[:, i:] -= error.unsqueeze(1).matmul(inner[i, i:].unsqueeze(0))
            errors[:, i] = error
        w[:, start:stop] = result
        whole[:, start:stop] = drop
        w[:, stop:] -= errors.matmul(inverse[start:stop, stop:])
    return ~whole, w


def zeros_per_block(mask: torch.Tensor, block: int = 128) -> list[int]:
    """How many weights each block of columns loses."""
    return [int((~mask[:, i : i + block]).sum()) for i in range(0, mask.shape[1], block)]
