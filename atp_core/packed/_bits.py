"""Masks of bits and the values they stand for, on whole rows of a matrix.

Elements are compared as bit patterns, never as numbers: −0.0 is a value, and so comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

__all__ = ["CHUNK_BYTES", "mask_columns", "matrix_of", "pack_rows", "rows_at_once", "unpack_rows"]

CHUNK_BYTES: Final = 8 << 20
"""About how many dense bytes are worked on at once."""

_WORD: Final = 32  # bits; rows of a mask are whole words, so that kernels can read them as such
_ENOUGH: Final = 64  # columns, from which padding to words costs little

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """The matrix (rows, columns) that a tensor is packed as; its elements keep their order.

    The last dimensions become columns: one, or as many as give 64 columns; the first one never.
    So the kernels of a convolution (out, in, 3, 3) become rows of 9·in, and fused experts
    (experts, out, in) rows of `in`.
    """
    cut = len(shape) - 1
    columns = shape[cut]
    while columns < _ENOUGH and cut > 1:
        cut -= 1
        columns *= shape[cut]
    rows = 1
    for size in shape[:cut]:
        rows *= size
    return rows, columns


def mask_columns(columns: int) -> int:
    """Bytes of a row of the mask: whole words of 32 bits."""
    return -(-columns // _WORD) * (_WORD // 8)


def rows_at_once(columns: int, item: int) -> int:
    """How many rows, of elements of `item` bytes, make a chunk."""
    return max(1, CHUNK_BYTES // max(1, columns * item))


def _elements(data: Bytes, item: int) -> np.ndarray[Any, Any]:
    return data.view(np.dtype(f"u{item}"))


def pack_rows(data: Bytes, columns: int, item: int) -> tuple[Bytes, Bytes]:
    """The mask and the values of some rows.

    Args:
        data: dense bytes of the rows.
        columns: elements a row.
        item: bytes of an element.

    Returns:
        The mask, shape (rows, `mask_columns(columns)`), and the bytes of the values.
    """
    dense = _elements(data, item).reshape(-1, columns)
    full = dense != 0
    mask = np.zeros((len(dense), mask_columns(columns)), dtype=np.uint8)
    bits = np.packbits(full, axis=1, bitorder="little")
    mask[:, : bits.shape[1]] = bits
    return mask, dense[full].view(np.uint8)


def unpack_rows(mask: Bytes, values: Bytes, columns: int, item: int) -> Bytes | None:
    """The inverse of `pack_rows`; None where mask and values do not fit together.

    Args:
        mask: shape (rows, `mask_columns(columns)`).
        values: bytes of the values.
        columns: elements a row.
        item: bytes of an element.
    """
    bits = np.unpackbits(mask, axis=1, bitorder="little").view(np.bool_)
    if bits[:, columns:].any():
        return None
    full = np.ascontiguousarray(bits[:, :columns])
    found = _elements(values, item)
    if np.count_nonzero(full) != len(found):
        return None
    dense = np.zeros(full.shape, dtype=found.dtype)
    dense[full] = found
    return dense.reshape(-1).view(np.uint8)
