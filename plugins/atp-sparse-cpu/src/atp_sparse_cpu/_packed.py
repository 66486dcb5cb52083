"""A weight as bit mask and nonzeros; sparse.h has the layout."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atp_core.errors import ModelError, NumericalError

from ._library import WEIGHT, Library, library, unavailable

__all__ = ["DTYPES", "IO", "Packed", "pack"]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Types of weights that can be packed."""

IO = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Codes of types in sparse.h."""

_ROWS, _SLACK, _BLOCK8 = 4, 128, 128
_HUGE = 4 << 20  # bytes from which a stream asks for large pages


def kernels() -> Library:
    """The kernels.

    Raises:
        ModelError: there are none here.
    """
    found = library()
    if found is None:
        raise ModelError(f"packed weights cannot be computed with here: {unavailable()}")
    return found


@dataclass(frozen=True)
class Packed:
    """A packed weight of `rows` outputs and `columns` inputs.

    Attributes:
        masks: int32 [groups, steps, 4], or int64 for int8 values.
        values: the nonzeros and 128 bytes more; of the weight's type, or int8.
        offsets: int64 [groups + 1].
        scales: bfloat16 [groups, blocks, 4] for int8 values, else None.
        rows: outputs.
        columns: inputs.
    """

    masks: Tensor
    values: Tensor
    offsets: Tensor
    scales: Tensor | None
    rows: int
    columns: int

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        parts = (self.masks, self.values, self.offsets, self.scales)
        return sum(part.nbytes for part in parts if part is not None)

    def struct(self) -> ctypes.Structure:
        """What the kernels are given; valid while the tensors live."""
        scales = self.scales.data_ptr() if self.scales is not None else None
        return WEIGHT(
            self.rows,
            self.columns,
            self.masks.data_ptr(),
            self.values.data_ptr(),
            self.offsets.data_ptr(),
            scales,
        )

    def unpack(self, dtype: torch.dtype, first: int = 0, last: int | None = None) -> Tensor:
        """Rows `first` to `last` (exclusive) as a dense matrix.

        Args:
            dtype: the weight's own type; for int8 values any type of `DTYPES`.
            first: row to begin with.
            last: row to end before; None is all.
        """
        end = self.rows if last is None else last
        with torch.inference_mode(False):
            dense = torch.empty(end - first, self.columns, dtype=dtype)
        unpack_into(self.struct(), self.values.dtype, dense, first, end)
        return dense


def unpack_into(
    struct: Any, stored: torch.dtype, dense: Tensor, first: int, last: int
) -> None:
    """Write rows `first` to `last` (exclusive) to the contiguous `dense`."""
    call, threads = kernels().call, torch.get_num_threads()
    pointer = ctypes.byref(struct)
    if stored == torch.int8:
        call.atp_unpack_int8(pointer, IO[dense.dtype], first, last, dense.data_ptr(), threads)
    else:
        width = dense.element_size()
        call.atp_unpack(pointer, width, first, last, dense.data_ptr(), threads)


# Also within inference mode, as what is made here may be trained through later.
@torch.inference_mode(False)
@torch.no_grad()
def pack(weight: Tensor, *, int8: bool = False) -> Packed:
    """Pack a dense matrix [out_features, in_features].

    Args:
        weight: bfloat16, float16 or float32, on the CPU.
        int8: round the values to 8 bits, with one bfloat16 scale for 128 columns of a row.

    Returns:
        Without `int8` every bit of the weight comes back from it, -0.0 and NaN too. With it a
        value is off by at most half a scale, which is 1/127 of the largest of its 128, plus what
        rounding the scale up adds (1/128 of that).

    Raises:
        ModelError: another type, shape or device; or no kernels here.
        NumericalError: NaN or infinity, which 8 bits cannot hold.
    """
    if weight.dtype not in DTYPES or weight.dim() != 2 or weight.device.type != "cpu":
        raise ModelError(
            f"cannot pack a {weight.dim()}-D weight of {weight.dtype} on {weight.device}; it must "
            "be a matrix of bfloat16, float16 or float32 on the CPU"
        )
    call = kernels().call
    dense = weight.detach().contiguous()
    if int8:
        dense = dense.float()
        if not bool(dense.isfinite().all()):
            raise NumericalError(
                'a weight has NaN or infinity, which int8 cannot hold; use format="exact"'
            )
    rows, columns = dense.shape
    groups, width = -(-rows // _ROWS), dense.element_size()
    offsets = torch.zeros(groups + 1, dtype=torch.int64)
    call.atp_count(dense.data_ptr(), rows, columns, width, offsets.data_ptr())
    stored = torch.int8 if int8 else dense.dtype
    slack = _SLACK // stored.itemsize
    values = torch.empty(int(offsets[-1]) + slack, dtype=stored)
    if values.nbytes >= _HUGE:
        call.atp_huge_pages(values.data_ptr(), values.nbytes)
    values[-slack:] = 0
    if not int8:
        masks = torch.zeros(groups, -(-columns // 32), _ROWS, dtype=torch.int32)
        call.atp_pack(
            dense.data_ptr(), rows, columns, width, masks.data_ptr(), values.data_ptr()
        )
        return Packed(masks, values, offsets, None, rows, columns)
    masks = torch.zeros(groups, 2 * -(-columns // _BLOCK8), _ROWS, dtype=torch.int64)
    scales = torch.zeros(groups, -(-columns // _BLOCK8), _ROWS, dtype=torch.bfloat16)
    call.atp_pack_int8(
        dense.data_ptr(), rows, columns, masks.data_ptr(), values.data_ptr(), scales.data_ptr()
    )
    return Packed(masks, values, offsets, scales, rows, columns)
