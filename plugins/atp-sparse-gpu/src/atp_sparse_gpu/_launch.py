"""Launches of the kernels: grids, and configurations that are tuned on the device.

A configuration is tuned once for every shape, number of tokens and dtype, and only on a GPU; the
interpreter takes the first.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atp_core.errors import ModelError

from ._packed import SEGMENT

__all__ = ["CONFIGS", "MOST_TOKENS", "Config", "launch_linear", "launch_unpack", "on_device"]

MOST_TOKENS = 16
"""Tokens that `launch_linear` takes at most."""


class Config(NamedTuple):
    """Rows and mask bytes of a tile, and how many warps and pipeline stages work on it."""

    rows: int
    chunks: int
    warps: int
    stages: int = 2


# 32 bytes of mask fill a warp, and its prefix sum then needs no shared memory. The more rows a
# thread has, the fewer instructions a weight takes (20 for one row, 14 for eight); the fewer rows a
# program has, the more programs there are to hide latency.
CONFIGS: dict[str, tuple[Config, ...]] = {
    "fma": (
        Config(4, 32, 1), Config(2, 32, 1), Config(8, 32, 1), Config(8, 32, 2), Config(16, 32, 2),
        Config(16, 32, 4), Config(2, 64, 1), Config(4, 64, 1), Config(8, 64, 2),
        Config(8, 32, 2, 3),
    ),
    "dot": (
        Config(16, 32, 4), Config(16, 32, 2), Config(32, 32, 4), Config(64, 32, 8),
        Config(16, 32, 4, 3),
    ),
    "unpack": (Config(4, 64, 4), Config(8, 32, 4), Config(16, 32, 4), Config(4, 128, 4)),
}  # fmt: skip
"""What is tried for each kernel."""


@functools.cache
def _kernel(name: str) -> Callable[..., Any]:
    """The kernel by name, taking (grid of a configuration, tensors, numbers, constants)."""
    from . import _kernels

    plain: Any = getattr(_kernels, f"{name}_kernel")
    if _kernels.INTERPRETED:
        first = CONFIGS[name][0]
        fixed = {"ROWS": first.rows, "CHUNKS": first.chunks}

        def launch(grid: Any, *args: Any, **constants: Any) -> None:
            plain[grid(fixed)](*args, **constants, **fixed, SEGMENT=SEGMENT, NATIVE=False)

        return launch
    tuned = _tuned(plain, CONFIGS[name])

    def launch_tuned(grid: Any, *args: Any, **constants: Any) -> None:
        tuned[grid](*args, **constants, SEGMENT=SEGMENT, NATIVE=True)

    return launch_tuned


def _tuned(plain: Any, configs: Sequence[Config]) -> Any:
    """The kernel with Triton's tuning: for each shape, number of tokens and dtype."""
    import triton

    tried = [
        triton.Config(
            {"ROWS": config.rows, "CHUNKS": config.chunks},
            num_warps=config.warps,
            num_stages=config.stages,
        )
        for config in configs
    ]
    keys = [key for key in ("n", "k", "M") if key in plain.arg_names]
    return triton.autotune(tried, key=keys)(plain)


def launch_linear(
    x: Tensor, mask: Tensor, values: Tensor, offsets: Tensor, bias: Tensor | None, columns: int
) -> Tensor:
    """x [m, K] · Wᵀ + bias, m ≤ MOST_TOKENS, accumulated in float32; see `_ops.linear`.

    Raises:
        ModelError: shapes, dtypes or devices do not go together. A kernel would not notice.
    """
    _verify(mask, values, offsets, columns)
    tokens, rows = x.shape[0], mask.shape[0]
    if x.dim() != 2 or x.shape[1] != columns or tokens > MOST_TOKENS:
        raise ModelError(
            f"the sparse product takes up to {MOST_TOKENS} × {columns} inputs, not {list(x.shape)}"
        )
    if x.dtype != values.dtype or x.device != values.device:
        raise ModelError(
            f"inputs are {x.dtype} on {x.device}, and packed weights {values.dtype} on "
            f"{values.device}: cast or move the inputs"
        )
    if bias is not None and (bias.shape != (rows,) or bias.device != x.device):
        raise ModelError(f"a bias of {list(bias.shape)} on {bias.device} does not fit {rows} rows")
    y = x.new_empty(tokens, rows)
    if y.numel() == 0:
        return y
    padded = max(1, 1 << (tokens - 1).bit_length())
    # Tensor cores take 16 tokens at least.
    name, padded = ("fma", padded) if padded <= 4 else ("dot", MOST_TOKENS)
    with on_device(x):
        _kernel(name)(
            lambda meta: (-(-rows // meta["ROWS"]),),
            x.contiguous(), mask, values, offsets, x if bias is None else bias.contiguous(), y,
            tokens, rows, columns, mask.shape[1], offsets.shape[1],
            HAS_BIAS=bias is not None, M=padded,
        )  # fmt: skip
    return y


def launch_unpack(mask: Tensor, values: Tensor, offsets: Tensor, columns: int) -> Tensor:
    """The dense weight [N, K], written in one pass.

    Raises:
        ModelError: the parts do not belong together.
    """
    _verify(mask, values, offsets, columns)
    rows = mask.shape[0]
    dense = values.new_empty(rows, columns)
    if dense.numel() == 0:
        return dense
    with on_device(values):
        _kernel("unpack")(
            lambda meta: (-(-rows // meta["ROWS"]), -(-mask.shape[1] * 4 // meta["CHUNKS"])),
            mask, values, offsets, dense, rows, columns, mask.shape[1], offsets.shape[1],
        )  # fmt: skip
    return dense


def _verify(mask: Tensor, values: Tensor, offsets: Tensor, columns: int) -> None:
    """Make sure that a kernel reads nothing but these tensors."""
    words, segments = -(-columns // 32), -(-columns // SEGMENT)
    right = (
        mask.dim() == 2 and offsets.shape == (mask.shape[0], segments)
        and mask.shape[1] == words and mask.dtype == torch.int32
        and offsets.dtype in (torch.int32, torch.int64)
        and mask.device == values.device == offsets.device
        and mask.is_contiguous() and values.is_contiguous() and offsets.is_contiguous()
    )  # fmt: skip
    if not right:
        raise ModelError(
            f"these are not the parts of one packed weight of {columns} columns: mask "
            f"{list(mask.shape)} {mask.dtype}, offsets {list(offsets.shape)} {offsets.dtype}, on "
            f"{mask.device}, {values.device} and {offsets.device}: pack the weight again"
        )


def on_device(tensor: Tensor) -> Any:
    """Makes the tensor's the current device, where Triton launches and events are recorded."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
