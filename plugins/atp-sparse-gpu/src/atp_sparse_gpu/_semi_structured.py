"""Weights of 2:4 pattern: at most two nonzeros in every four columns of a row.

torch runs them on the sparse tensor cores of NVIDIA GPUs of compute capability 8.0 and later,
through cuSPARSELt (or CUTLASS, where a program forces it). Only what has the pattern already is
converted: nothing is pruned here.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["convert", "has_pattern", "unfit"]


def has_pattern(weight: Tensor) -> bool:
    """Whether every group of four along in_features has at most two nonzeros.

    A weight [N, K] with K not a multiple of four has no such groups, and an empty or dense one is
    answered like any other.
    """
    if weight.dim() != 2 or weight.shape[1] % 4:
        return False
    groups = (weight.detach() != 0).contiguous().view(-1, 4)
    return bool((groups.sum(1, dtype=torch.uint8) <= 2).all())


def unfit(dtype: torch.dtype, shape: tuple[int, int]) -> str | None:
    """Why torch would not take a weight of this dtype and shape, or None.

    float16 and bfloat16 only. float32 would be rounded to tf32, so it is left out. The multiples
    are those that torch itself declares for the backend it is going to use.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return f"{str(dtype).removeprefix('torch.')} has no 2:4 product that keeps its precision"
    base = torch.sparse.SparseSemiStructuredTensor
    backend = (
        torch.sparse.SparseSemiStructuredTensorCUTLASS
        if base._FORCE_CUTLASS
        else torch.sparse.SparseSemiStructuredTensorCUSPARSELT
    )
    needed = backend._DTYPE_SHAPE_CONSTRAINTS[dtype]
    rows, columns = needed.sparse_min_rows, needed.sparse_min_cols
    if shape[0] % rows or shape[1] % columns or not all(shape):
        return f"{shape[0]} × {shape[1]} is not a multiple of {rows} × {columns}, as 2:4 needs"
    return None


def convert(weight: Tensor) -> Tensor:
    """The weight as torch's semi-structured tensor, on its CUDA device."""
    with warnings.catch_warnings():
        # It says on the first use that this API may change; `unfit` and the tests watch it.
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor.*prototype")
        return torch.sparse.to_sparse_semi_structured(weight.detach().contiguous())
