"""The routes of `_choose`, carried out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ._choose import Route
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
    from ._ops import linear, unpack_op

    packed = formats.packed
    assert packed is not None
    if route == "bitmask":
        if x.dtype != packed.values.dtype and torch.is_autocast_enabled(x.device.type):
            x = x.to(packed.values.dtype)
        y: Tensor = linear(x, packed.mask, packed.values, packed.offsets, bias, packed.shape[1])
        return y
    dense: Tensor = unpack_op(packed.mask, packed.values, packed.offsets, packed.shape[1])
    return functional.linear(x, dense, bias)
