"""Between a dense tensor and its bitmask and nonzeros, by bit patterns and so without loss."""

from __future__ import annotations

import math
import zlib
from typing import Any, TypeAlias

import numpy as np
import torch

__all__ = ["Bits", "checksum", "packed", "raw", "unpacked", "worthwhile"]

_INTEGERS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


Bits: TypeAlias = "np.ndarray[Any, Any]"


def raw(tensor: torch.Tensor) -> Bits:
    """The tensor's bits as unsigned integers of its shape."""
    flat: Bits = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    found: Bits = flat.view(_INTEGERS[tensor.element_size()]).reshape(tuple(tensor.shape))
    return found


def worthwhile(tensor: torch.Tensor) -> bool:
    """Whether packing makes the tensor smaller.

    Only tensors of two dimensions and more are packed; a −0.0 counts as a value.
    """
    if tensor.dim() < 2 or not tensor.numel() or tensor.element_size() not in _INTEGERS:
        return False
    rows, columns = _sides(tuple(tensor.shape))
    nonzeros = int(np.count_nonzero(raw(tensor)))
    return rows * _bytes(columns) + nonzeros * tensor.element_size() < tensor.nbytes


def packed(tensor: torch.Tensor) -> tuple[Bits, Bits]:
    """Mask and values.

    Returns:
        The mask, uint8 of shape (rows, ⌈columns/8⌉): bit j % 8 of byte j // 8, from the least, is
        set where column j is not zero. The values, row by row, as unsigned integers.
    """
    bits = raw(tensor).reshape(_sides(tuple(tensor.shape)))
    kept = bits != 0
    return np.packbits(kept, axis=1, bitorder="little"), bits[kept]


def unpacked(mask: Bits, values: Bits, shape: tuple[int, ...]) -> Bits:
    """The dense tensor's bits, as unsigned integers of its shape.

    Raises:
        ValueError: the parts do not fit each other.
    """
    rows, columns = _sides(shape)
    if mask.dtype != np.uint8 or mask.shape != (rows, _bytes(columns)):
        raise ValueError(f"its mask is {mask.dtype} {mask.shape}, which does not fit {shape}")
    every = np.unpackbits(mask, axis=1, bitorder="little")
    if every[:, columns:].any():
        raise ValueError("its mask has bits beyond the last column")
    kept = every[:, :columns].astype(bool)
    count = int(np.count_nonzero(kept))
    if values.shape != (count,):
        raise ValueError(f"its mask keeps {count} values and it has {values.size}")
    dense = np.zeros((rows, columns), dtype=values.dtype)
    dense[kept] = values
    return dense.reshape(shape)


def checksum(*parts: Bits) -> int:
    """CRC-32 over the bytes of all parts."""
    found = 0
    for part in parts:
        found = zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data, found)
    return found


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _bytes(columns: int) -> int:
    return -(-columns // 8)
