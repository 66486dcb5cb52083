"""The layout of an unstructured-sparse matrix on the device: bitmask, value stream, offsets.

    mask     int32 [N, ceil(K/32)]     bit i of word w: column 32·w + i is in the stream
    values   [nonzeros]                row by row, in the order of columns, in the weight's dtype
    offsets  [N, ceil(K/256)]          where in the stream each 256 columns of each row begin

A value is whatever has a bit set, so that −0.0 and NaN come back bit for bit. `offsets[:, 0]` are
the offsets of rows; the others make the segments of a row independent of each other and cost an
eighth of a bit a weight. They are int32 while the stream is shorter than 2³¹ values, then int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from atp_core.errors import ModelError

__all__ = ["DTYPES", "SEGMENT", "PackedWeight", "pack", "unpack"]

SEGMENT = 256
"""Columns of a segment."""

DTYPES = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
"""Dtypes of weights that can be packed, with the integers of their size."""

# Elements that packing and unpacking hold intermediates for at once.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class PackedWeight:
    """One weight, (out_features, in_features), in the layout of this module.

    Attributes:
        mask: int32 [N, ceil(K/32)].
        values: [nonzeros], in the dtype of the weight.
        offsets: int32 or int64 [N, ceil(K/256)].
        shape: (N, K).
    """

    mask: Tensor
    values: Tensor
    offsets: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_bytes(cls, mask: Tensor, values: Tensor, shape: tuple[int, int]) -> PackedWeight:
        """A weight from its bitmask by bytes, e.g. as a file holds it.

        Args:
            mask: uint8 [N, ceil(K/8)], bit i of byte b: column 8·b + i is in the stream. Bits
                past the last column are zero.
            values: [nonzeros].
            shape: (N, K).

        Raises:
            ModelError: mask, values and shape do not belong together.
        """
        rows, columns = shape
        if mask.dtype != torch.uint8 or tuple(mask.shape) != (rows, -(-columns // 8)):
            raise ModelError(
                f"the bitmask of a {rows} × {columns} weight is uint8 {[rows, -(-columns // 8)]}, "
                f"not {mask.dtype} {list(mask.shape)}: pack the weight again"
            )
        if values.dtype not in DTYPES:
            raise ModelError(f"weights of {values.dtype} cannot run packed: keep them dense")
        by_byte = _popcount(_widened(mask, SEGMENT // 8))
        counts = by_byte.view(rows, -(-columns // SEGMENT), SEGMENT // 8).sum(2, dtype=torch.int64)
        ends = counts.view(-1).cumsum(0)
        nonzeros = int(ends[-1]) if ends.numel() else 0
        if values.dim() != 1 or values.numel() != nonzeros:
            raise ModelError(
                f"the bitmask of a {rows} × {columns} weight has {nonzeros} bits, and there are "
                f"values of shape {list(values.shape)}: pack the weight again"
            )
        offsets = (ends - counts.view(-1)).view(counts.shape)
        if nonzeros < 2**31:
            offsets = offsets.to(torch.int32)
        words = mask.new_zeros(rows, -(-columns // 32), dtype=torch.int32)
        if words.numel():
            words = _widened(mask, 4).contiguous().view(torch.int32)
        return cls(words, values.contiguous(), offsets, (rows, columns))

    @cached_property
    def sparsity(self) -> float:
        """Share of the weights that is not in the stream."""
        return 1 - self.values.numel() / max(1, self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of mask, values and offsets."""
        return self.mask.nbytes + self.values.nbytes + self.offsets.nbytes

    def to(self, device: torch.device | str) -> PackedWeight:
        """The same on another device."""
        mask, values, offsets = (t.to(device) for t in (self.mask, self.values, self.offsets))
        return PackedWeight(mask, values, offsets, self.shape)


def pack(dense: Tensor) -> PackedWeight:
    """Pack a dense weight [N, K], on whatever device it is; nothing is rounded.

    Raises:
        ModelError: the dtype cannot be packed.
    """
    if dense.dtype not in DTYPES:
        raise ModelError(f"weights of {dense.dtype} cannot run packed: keep them dense")
    rows, columns = dense.shape
    powers = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=dense.device)
    masks, values = [], []
    for block in dense.detach().split(max(1, _BLOCK // max(1, columns))):
        bits = block.contiguous().view(DTYPES[dense.dtype]) != 0
        by_byte = _widened(bits, 8).view(len(block), -(-columns // 8), 8)
        masks.append((by_byte * powers).sum(2, dtype=torch.uint8))
        values.append(block[bits])
    return PackedWeight.from_bytes(torch.cat(masks), torch.cat(values), (rows, columns))


def unpack(packed: PackedWeight) -> Tensor:
    """The dense weight [N, K] again, bit for bit, without a kernel of ours."""
    rows, columns = packed.shape
    dense = packed.values.new_zeros(rows, columns)
    lanes = torch.arange(32, device=dense.device)
    begin = 0
    step = max(1, _BLOCK // max(1, columns))
    for block, words in zip(dense.split(step), packed.mask.split(step), strict=True):
        bits = (words[:, :, None] >> lanes & 1).to(torch.bool).flatten(1)[:, :columns]
        end = begin + int(bits.sum())
        block.masked_scatter_(bits, packed.values[begin:end])
        begin = end
    return dense


def _widened(matrix: Tensor, multiple: int) -> Tensor:
    """`matrix` with zeros to the right, up to a multiple of columns."""
    missing = -matrix.shape[1] % multiple
    return torch.nn.functional.pad(matrix, (0, missing)) if missing else matrix


def _popcount(mask: Tensor) -> Tensor:
    """Number of ones of every byte."""
    counts = [byte.bit_count() for byte in range(256)]
    table = torch.tensor(counts, dtype=torch.uint8, device=mask.device)
    return table[mask.int()]
