"""The kernels as operators of torch, so that torch.compile and torch.export see them.

`atp_sparse_gpu::linear` and `atp_sparse_gpu::unpack`. Gradients flow to the input and the bias;
packed weights are constants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._launch import launch_linear, launch_unpack

__all__ = ["linear", "unpack_op"]


def _linear(
    x: Tensor, mask: Tensor, values: Tensor, offsets: Tensor, bias: Tensor | None, columns: int
) -> Tensor:
    """x · Wᵀ + bias for few tokens.

    Args:
        x: [m, K] of the weight's dtype, m ≤ 16.
        mask: int32 [N, ceil(K/32)].
        values: [nonzeros].
        offsets: int32 or int64 [N, ceil(K/256)].
        bias: [N], or None.
        columns: K.
    """
    return launch_linear(x, mask, values, offsets, bias, columns)


def _fake_linear(
    x: Tensor, mask: Tensor, values: Tensor, offsets: Tensor, bias: Tensor | None, columns: int
) -> Tensor:
    return x.new_empty(x.shape[0], mask.shape[0])


def _unpack(mask: Tensor, values: Tensor, offsets: Tensor, columns: int) -> Tensor:
    """The dense weight [N, columns]."""
    return launch_unpack(mask, values, offsets, columns)


def _fake_unpack(mask: Tensor, values: Tensor, offsets: Tensor, columns: int) -> Tensor:
    return values.new_empty(mask.shape[0], columns)


unpack_op: Any = torch.library.custom_op("atp_sparse_gpu::unpack", _unpack, mutates_args=())
unpack_op.register_fake(_fake_unpack)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, mask, values, offsets, bias, columns = inputs
    ctx.save_for_backward(mask, values, offsets)
    ctx.columns, ctx.has_bias = columns, bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    mask, values, offsets = ctx.saved_tensors
    to_x = to_bias = None
    if ctx.needs_input_grad[0]:
        to_x = grad @ unpack_op(mask, values, offsets, ctx.columns)
    if ctx.has_bias and ctx.needs_input_grad[4]:
        to_bias = grad.sum(0)
    return to_x, None, None, None, to_bias, None


linear: Any = torch.library.custom_op("atp_sparse_gpu::linear", _linear, mutates_args=())
linear.register_fake(_fake_linear)
linear.register_autograd(_backward, setup_context=_keep)
