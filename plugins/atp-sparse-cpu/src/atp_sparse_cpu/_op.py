"""The product as an operator of torch, for torch.compile, torch.export and autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._compute import compute
from ._packed import Packed

__all__ = ["sparse_linear", "sparse_unpack"]


@torch.library.custom_op(
    "atp::sparse_linear",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor masks, Tensor values, Tensor offsets, Tensor? scales, Tensor? bias, "
        "Tensor? dense, int out_features, int[] plan) -> Tensor"
    ),
)
def sparse_linear(
    x: Tensor,
    masks: Tensor,
    values: Tensor,
    offsets: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    dense: Tensor | None,
    out_features: int,
    plan: Sequence[int],
) -> Tensor:
    """`torch.ops.atp.sparse_linear`: see `compute`. Differentiable by `x` and `bias`."""
    packed = Packed(masks, values, offsets, scales, out_features, x.shape[-1])
    # A result that shares memory with an argument is not allowed here.
    return compute(x, packed.struct(), values.dtype, bias, dense, tuple(plan))


@sparse_linear.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], rest[-2]))


@torch.library.custom_op(
    "atp::sparse_unpack",
    mutates_args=(),
    schema=(
        "(Tensor masks, Tensor values, Tensor offsets, Tensor? scales, int rows, int columns, "
        "ScalarType dtype) -> Tensor"
    ),
)
def sparse_unpack(
    masks: Tensor,
    values: Tensor,
    offsets: Tensor,
    scales: Tensor | None,
    rows: int,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    """`torch.ops.atp.sparse_unpack`: see `Packed.unpack`. The backward pass needs it."""
    return Packed(masks, values, offsets, scales, rows, columns).unpack(dtype)


@sparse_unpack.register_fake
def _(masks: Tensor, *rest: Any) -> Tensor:
    rows, columns, dtype = rest[-3:]
    return masks.new_empty((rows, columns), dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, masks, values, offsets, scales, _, _, out_features, _ = inputs
    ctx.save_for_backward(masks, values, offsets, scales)
    ctx.shape = out_features, x.shape[-1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of inputs and bias; the weights are fixed."""
    of_x = of_bias = None
    if ctx.needs_input_grad[0]:
        of_x = gradient @ sparse_unpack(*ctx.saved_tensors, *ctx.shape, gradient.dtype)
    if ctx.needs_input_grad[5]:
        of_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0)
    return of_x, None, None, None, None, of_bias, None, None, None


sparse_linear.register_autograd(_backward, setup_context=_setup)
