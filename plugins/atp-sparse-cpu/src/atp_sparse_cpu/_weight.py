"""A packed weight, its product with inputs, and the way back."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final, Literal

import torch

from ._library import Weight, kernels

__all__ = ["FORMATS", "Format", "PackedWeight", "pack", "usable_kernel"]

Format = Literal["exact", "int8"]
FORMATS: Final = ("exact", "int8")

_DOT_BF16, _FMA_BF16, _FP16, _FP32, _INT8 = range(5)
_IO: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_EXPAND, _HAS_DOT_BF16, _HAS_DOT_INT8 = 1, 2, 4
_ROWS, _STEP, _STEP8, _BLOCK8, _SLACK = 4, 32, 64, 128, 64
_LARGE: Final = 4 << 20


def usable_kernel(dtype: torch.dtype, form: Format) -> int | None:
    """The kernel for weights of a dtype on this processor, or None."""
    features = kernels().features
    if dtype not in _IO or not features & _EXPAND:
        return None
    if form == "int8":
        return _INT8 if features & _HAS_DOT_INT8 else None
    if dtype == torch.bfloat16:
        return _DOT_BF16 if features & _HAS_DOT_BF16 else _FMA_BF16
    return _FP32 if dtype == torch.float32 else _FP16


@dataclass(frozen=True)
class PackedWeight:
    """Weights as bitmask and nonzeros, in the order the kernels read them.

    Attributes:
        masks: uint8, the bitmask.
        values: uint8, the stream of values and some slack.
        offsets: int64, where each group of 4 rows starts in the stream.
        scales: bfloat16, of int8 values; empty otherwise.
        shape: (out_features, in_features).
        dtype: of inputs, outputs and the dense weight.
        kernel: which one multiplies.
    """

    masks: torch.Tensor
    values: torch.Tensor
    offsets: torch.Tensor
    scales: torch.Tensor
    shape: tuple[int, int]
    dtype: torch.dtype
    kernel: int

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(t.nbytes for t in (self.masks, self.values, self.offsets, self.scales))

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x·Wᵀ + bias.

        Args:
            x: shape (…, in_features), of `dtype`, on the CPU.
            bias: shape (out_features,), of `dtype`, or None.

        Returns:
            Shape (…, out_features).
        """
        n, k = self.shape
        rows = x.reshape(-1, k)
        if rows.stride(1) != 1 and rows.numel():
            rows = rows.contiguous()
        y = torch.empty(rows.shape[0], n, dtype=self.dtype)
        if y.numel():
            _check(
                _library().atp_linear(
                    self.kernel, self._struct(), rows.data_ptr(), max(rows.stride(0), k),
                    rows.shape[0], None if bias is None else bias.data_ptr(), y.data_ptr(),
                    _IO[self.dtype], torch.get_num_threads(),
                )
            )  # fmt: skip
        return y.view(*x.shape[:-1], n)

    def dense(self) -> torch.Tensor:
        """The dense weight; bit for bit what was packed, unless the values are int8."""
        n, k = self.shape
        out = torch.empty(n, k, dtype=self.dtype)
        if out.numel():
            threads = torch.get_num_threads()
            if self.kernel == _INT8:
                done = _library().atp_unpack_int8(
                    self._struct(), _IO[self.dtype], 0, n, out.data_ptr(), threads
                )
            else:
                done = _library().atp_unpack(
                    self._struct(), self.dtype.itemsize, 0, n, out.data_ptr(), threads
                )
            _check(done)
        return out

    def _struct(self) -> Weight:
        return Weight(
            *self.shape,
            self.masks.data_ptr(),
            self.values.data_ptr(),
            self.offsets.data_ptr(),
            self.scales.data_ptr() if self.scales.numel() else None,
        )


def pack(weight: torch.Tensor, form: Format = "exact") -> PackedWeight:
    """Pack a weight.

    Args:
        weight: shape (out_features, in_features), float32, bfloat16 or float16, on the CPU.
        form: "exact" keeps every value; "int8" rounds them, with a scale for 128 columns of a row.

    Raises:
        ValueError: no kernel here multiplies such weights.
    """
    kernel = usable_kernel(weight.dtype, form)
    if kernel is None or weight.dim() != 2 or weight.device.type != "cpu":
        raise ValueError(f"no kernel here for {weight.dtype} weights in the format {form}")
    weight = weight.detach().contiguous()
    n, k = weight.shape
    groups = -(-n // _ROWS)
    library = _library()
    offsets = torch.zeros(groups + 1, dtype=torch.int64)
    if form == "int8":
        source = weight.float().contiguous()
        width, per_mask, step = 1, 8, _STEP8
    else:
        source, width, per_mask, step = weight, weight.dtype.itemsize, 4, _STEP
    _check(library.atp_count(source.data_ptr(), n, k, source.element_size(), offsets.data_ptr()))
    count = int(offsets[-1])
    masks = torch.zeros(groups * -(-k // step) * _ROWS * per_mask, dtype=torch.uint8)
    # A vector stored whole may reach past the last value.
    values = torch.zeros(count * width + 2 * _SLACK, dtype=torch.uint8)
    if values.nbytes >= _LARGE:
        library.atp_huge_pages(values.data_ptr(), values.nbytes)
    scales = torch.empty(0, dtype=torch.bfloat16)
    if form == "int8":
        scales = torch.zeros(groups * -(-k // _BLOCK8) * _ROWS, dtype=torch.bfloat16)
        done = library.atp_pack_int8(
            source.data_ptr(), n, k, masks.data_ptr(), values.data_ptr(), scales.data_ptr()
        )
    else:
        done = library.atp_pack(
            source.data_ptr(), n, k, width, masks.data_ptr(), values.data_ptr()
        )
    _check(done)
    return PackedWeight(masks, values, offsets, scales, (n, k), weight.dtype, kernel)


def _library() -> ctypes.CDLL:
    found = kernels().library
    assert found is not None, "packed weights exist only where the library does"
    return found


def _check(result: int) -> None:
    if result == 1:
        raise MemoryError("too little memory for a sparse product")
    if result:
        raise RuntimeError("the kernels do not support this product on this processor")
