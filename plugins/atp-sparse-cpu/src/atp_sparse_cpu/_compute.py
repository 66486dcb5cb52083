"""One product, the way that a plan says. Plain functions of tensors: no autograd, no tracing."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atp_core.errors import ModelError

from ._library import library, unavailable
from ._packed import IO, unpack_into
from ._plan import Path, Plan, bucket_of

__all__ = ["compute"]

# Rows that are unpacked at a time should stay in the second-level cache, yet be enough for a
# matrix product at full rate.
_PANEL_BYTES, _PANEL_LEAST = 3 << 19, 128


def compute(
    x: Tensor,
    struct: Any,
    stored: torch.dtype,
    bias: Tensor | None,
    dense: Tensor | None,
    plan: Plan,
) -> Tensor:
    """`x` times the packed weight's transpose, plus `bias`.

    Args:
        x: [..., in_features], of the bias's type.
        struct: `Packed.struct()`.
        stored: the type of the packed values.
        bias: [out_features] or None.
        dense: the dense weight, where the plan wants it.
        plan: the way for each bucket of tokens.

    Returns:
        [..., out_features], of the type of `x`.

    Raises:
        ModelError: the kernels are gone or out of memory.
    """
    rows = x.reshape(-1, x.shape[-1])
    tokens = rows.shape[0]
    way = plan[bucket_of(tokens)]
    if way == Path.DENSE and dense is not None:
        return F.linear(x, dense, bias)
    shape = (*x.shape[:-1], struct.n)
    if tokens == 0 or struct.n == 0:
        return x.new_empty(shape)
    if rows.stride(-1) != 1 and rows.shape[-1] > 1:
        rows = rows.contiguous()
    if way in (Path.UNPACK, Path.DENSE):
        return _unpacked(rows, struct, stored, bias).view(shape)
    found = library()
    if found is None:
        raise ModelError(f"packed weights cannot be computed with here: {unavailable()}")
    out = torch.empty(tokens, struct.n, dtype=x.dtype)
    if way == Path.SPMM:
        call = found.call.atp_spmm
    elif way == Path.AMX:
        call = found.call.atp_amx
    else:
        call = partial(found.call.atp_linear, way)
    result = call(
        ctypes.byref(struct),
        rows.data_ptr(),
        rows.stride(0),
        tokens,
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        IO[x.dtype],
        torch.get_num_threads(),
    )
    if result:
        told = {1: "no memory is left", 2: "this processor lacks its instructions"}[result]
        raise ModelError(f"the sparse kernel {Path(way).name} failed: {told}")
    return out.view(shape)


def _unpacked(rows: Tensor, struct: Any, stored: torch.dtype, bias: Tensor | None) -> Tensor:
    outputs, inputs = struct.n, struct.k
    panel = max(_PANEL_LEAST, _PANEL_BYTES // max(inputs * rows.element_size(), 1) // 16 * 16)
    panel = min(panel, outputs)
    # As few panels as this takes, and of one size: the last one is not left with a few rows.
    count = -(-outputs // panel)
    panel = -(-outputs // count)
    panel += -panel % 4
    buffer = torch.empty(panel, inputs, dtype=rows.dtype)
    out = torch.empty(rows.shape[0], outputs, dtype=rows.dtype) if count > 1 else None
    for first in range(0, outputs, panel):
        last = min(first + panel, outputs)
        part = buffer[: last - first]
        unpack_into(struct, stored, part, first, last)
        done = F.linear(rows, part, None if bias is None else bias[first:last])
        if out is None:
            return done
        out[:, first:last] = done
    assert out is not None
    return out
