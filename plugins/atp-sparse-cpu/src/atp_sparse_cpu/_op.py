"""The product as an operator that `torch.compile` and `torch.export` know."""

from __future__ import annotations

import torch

from ._weight import PackedWeight

__all__ = ["product"]


@torch.library.custom_op("atp_sparse_cpu::linear", mutates_args=())
def _linear(
    x: torch.Tensor,
    masks: torch.Tensor,
    values: torch.Tensor,
    offsets: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    out_features: int,
    kernel: int,
) -> torch.Tensor:
    shape = (out_features, x.shape[-1])
    weight = PackedWeight(masks, values, offsets, scales, shape, x.dtype, kernel)
    return weight.product(x, bias)


@_linear.register_fake
def _(
    x: torch.Tensor,
    masks: torch.Tensor,
    values: torch.Tensor,
    offsets: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    out_features: int,
    kernel: int,
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


def product(weight: PackedWeight, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """As `PackedWeight.product`, through the operator."""
    found: torch.Tensor = _linear(
        x, weight.masks, weight.values, weight.offsets, weight.scales, bias, weight.shape[0],
        weight.kernel,
    )  # fmt: skip
    return found
