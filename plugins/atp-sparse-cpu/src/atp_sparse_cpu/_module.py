"""`nn.Linear` with a packed weight."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ._op import product
from ._weight import PackedWeight

__all__ = ["SparseLinear"]


class SparseLinear(nn.Module):
    """A linear layer whose weight is packed; for inference.

    Up to `most` rows of input the sparse kernel multiplies. Above, the weight is made dense for the
    call, or is kept dense beside the packed one.

    Args:
        linear: what is replaced; its weight is let go.
        weight: its packed weight.
        most: rows of input up to which the sparse kernel is the faster one; None for all.
        keep_dense: keep the dense weight for larger inputs, which costs memory and saves time.

    Raises:
        RuntimeError: in `forward`, where a gradient is asked for.
    """

    def __init__(
        self, linear: nn.Linear, weight: PackedWeight, *, most: int | None, keep_dense: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.most = most
        self.packed = weight
        # What the packed weight is made of is no parameter: `state_dict` has the dense weight.
        self._dense = linear.weight.detach() if keep_dense and most is not None else None
        self.bias: nn.Parameter | None = linear.bias
        self.train(linear.training)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, made anew unless it is kept."""
        return self.packed.dense() if self._dense is None else self._dense

    @property
    def nbytes(self) -> int:
        """Bytes of the weight in all the forms it is held in."""
        return self.packed.nbytes + (0 if self._dense is None else self._dense.nbytes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x·Wᵀ + bias; shape (…, in_features) to (…, out_features)."""
        if x.dtype != self.packed.dtype or x.device.type != "cpu":
            raise RuntimeError(
                f"this layer was accelerated for {self.packed.dtype} on the CPU and gets "
                f"{x.dtype} on {x.device}; call atp_sparse_cpu.restore(model) before moving it"
            )
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError(
                "accelerated layers have no gradient: use torch.inference_mode(), or "
                "atp_sparse_cpu.restore(model) to train"
            )
        bias = None if self.bias is None else self.bias.detach()
        if self.most is not None and x.numel() > self.most * self.in_features:
            return F.linear(x, self.weight, bias)
        if torch.compiler.is_compiling():
            return product(self.packed, x, bias)
        return self.packed.product(x, bias)

    def dense(self) -> nn.Linear:
        """The layer as it was, its weight bit for bit unless the values are int8."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight = nn.Parameter(self.weight, requires_grad=False)
        linear.register_parameter("bias", self.bias)
        linear.train(self.training)
        return linear

    def extra_repr(self) -> str:
        """Sizes, and up to where the sparse kernel is used."""
        to = "" if self.most is None else f", sparse up to {self.most} rows"
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}{to}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(
            "weights cannot be loaded into an accelerated layer; call "
            "atp_sparse_cpu.restore(model) first"
        )
