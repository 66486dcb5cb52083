"""The routes of `_choose`, carried out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from . import _ops
from ._choose import Route
from ._launch import launch_linear, launch_unpack
from ._packed import PackedWeight

__all__ = ["Formats", "product"]


@dataclass(frozen=True)
class Formats:
    """One weight [N, K] in the formats that its routes take; None where no route does."""

    dense: Tensor | None = None
    packed: PackedWeight | None = None
    semi: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all formats together."""
        kept = 0 if self.dense is None else self.dense.nbytes
        kept += 0 if self.packed is None else self.packed.nbytes
        if self.semi is not None:
            inner, _ = self.semi.__tensor_flatten__()  # type: ignore[attr-defined]
            kept += sum(getattr(self.semi, name).nbytes for name in inner)
        return kept


def product(route: Route, x: Tensor, formats: Formats, bias: Tensor | None) -> Tensor:
    """x [m, K] · Wᵀ + bias by one route."""
    if route == "dense":
        assert formats.dense is not None
        return functional.linear(x, formats.dense, bias)
    if route == "2:4":
        assert formats.semi is not None
        return functional.linear(x, formats.semi, bias)
    packed = formats.packed
    assert packed is not None
    if route == "bitmask":
        if x.dtype != packed.values.dtype and torch.is_autocast_enabled(x.device.type):
            x = x.to(packed.values.dtype)
        multiply = _ops.linear if _traced(x, bias) else launch_linear
        y: Tensor = multiply(x, packed.mask, packed.values, packed.offsets, bias, packed.shape[1])
        return y
    unpack = _ops.unpack_op if _traced(x, bias) else launch_unpack
    dense: Tensor = unpack(packed.mask, packed.values, packed.offsets, packed.shape[1])
    return functional.linear(x, dense, bias)


def _traced(x: Tensor, bias: Tensor | None) -> bool:
    """Whether a compiler or autograd has to see an operator.

    Otherwise the kernel is launched directly: the way through the dispatcher takes Python longer
    than a small product takes the GPU.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor:
        return True
    wanted = x.requires_grad or (bias is not None and bias.requires_grad)
    return torch.is_grad_enabled() and wanted
